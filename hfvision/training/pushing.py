"""Checkpoints of a run on the Hub while it trains, by `hub_strategy`, and the finished model in their place.

Trainer's own way copies the files of a checkpoint into the run's folder before it uploads that; here they go to the Hub
straight from the checkpoint, so that the folder holds a model only when one is finished.
"""

from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from transformers.trainer_utils import HubStrategy, SaveStrategy
from transformers.utils import PushInProgress

# Of a checkpoint's files those that continue training, and Trainer's arguments, which are a pickle.
OF_TRAINING = ["optimizer*", "scheduler*", "scaler*", "rng_state*", "trainer_state.json", "training_args.bin", "_*"]


def push_checkpoint(trainer: Any, checkpoint: Path) -> None:
    """Begin to upload a checkpoint of a `transformers.Trainer` in the background, as its `hub_strategy` says.

    Unless `hub_always_push`, nothing is done where the last upload still runs.
    """
    args, strategy = trainer.args, trainer.args.hub_strategy
    running = trainer.push_in_progress is not None and not trainer.push_in_progress.is_done()
    if strategy == HubStrategy.END or (running and not args.hub_always_push):
        return
    trainer.callback_handler.on_push_begin(args, trainer.state, trainer.control)
    state = trainer.state
    by_steps = args.save_strategy == SaveStrategy.STEPS
    message = f"Training in progress, {f'step {state.global_step}' if by_steps else f'epoch {int(state.epoch or 0)}'}"
    to = {"repo_id": trainer.hub_model_id, "folder_path": checkpoint, "revision": args.hub_revision}
    hub = HfApi(token=args.hub_token)
    jobs = [hub.upload_folder(**to, commit_message=message, ignore_patterns=OF_TRAINING, run_as_future=True)]
    if strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
        place = "last-checkpoint" if strategy == HubStrategy.CHECKPOINT else checkpoint.name
        jobs.append(
            hub.upload_folder(**to, path_in_repo=place, commit_message=f"{message}, checkpoint", run_as_future=True)
        )
    if running:
        trainer.push_in_progress.jobs.extend(jobs)
    else:
        trainer.push_in_progress = PushInProgress(jobs)
