"""Checkpoints of a run on the Hub while it trains, by `hub_strategy`, and the finished model in their place.

Trainer's own way copies the files of a checkpoint into the run's folder before it uploads that; here they go to the Hub
straight from the checkpoint, so that the folder holds a model only when one is finished.
"""

from pathlib import Path
from typing import Any

from transformers.trainer_utils import HubStrategy, SaveStrategy
from transformers.utils.hub import PushInProgress, hf_api

from hfvision.errors import PublishError
from hfvision.publishing import push
from hfvision.publishing.hub import explained, open_hub
from hfvision.reporting import report

PICKLED_ARGUMENTS = "training_args.bin"  # with the token among them; nothing needs it to go on
OF_TRAINING = ["optimizer*", "scheduler*", "scaler*", "rng_state*", "trainer_state.json", PICKLED_ARGUMENTS, "_*"]


def push_checkpoint(trainer: Any, checkpoint: Path) -> list[Any]:
    """Begin to upload a checkpoint of a `transformers.Trainer` in the background, as its `hub_strategy` says.

    Unless `hub_always_push`, nothing is done where the last upload still runs. Returns the uploads.
    """
    args, strategy = trainer.args, trainer.args.hub_strategy
    running = trainer.push_in_progress is not None and not trainer.push_in_progress.is_done()
    if strategy == HubStrategy.END or (running and not args.hub_always_push):
        return []
    trainer.callback_handler.on_push_begin(args, trainer.state, trainer.control)
    state = trainer.state
    by_steps = args.save_strategy == SaveStrategy.STEPS
    message = f"Training in progress, {f'step {state.global_step}' if by_steps else f'epoch {int(state.epoch or 0)}'}"
    where = {"repo_id": trainer.hub_model_id, "revision": args.hub_revision, "token": args.hub_token}
    to: dict[str, Any] = {**where, "folder_path": checkpoint, "run_as_future": True}
    hub = hf_api()
    jobs: Any = [hub.upload_folder(**to, commit_message=message, ignore_patterns=OF_TRAINING)]
    if strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
        place = "last-checkpoint" if strategy == HubStrategy.CHECKPOINT else checkpoint.name
        whole: dict[str, Any] = {"path_in_repo": place, "ignore_patterns": [PICKLED_ARGUMENTS]}
        jobs.append(hub.upload_folder(**to, **whole, commit_message=f"{message}, checkpoint"))
    if running:
        trainer.push_in_progress.jobs.extend(jobs)
    else:
        trainer.push_in_progress = PushInProgress(jobs)
    return list(jobs)


def report_failed_uploads(trainer: Any) -> None:
    """Say of which uploads in the background nothing came; training does not end for them."""
    running = getattr(trainer, "push_in_progress", None)
    for job in [] if running is None else running.jobs:
        if job.done() and (error := job.exception()) is not None:
            report(f"a checkpoint did not reach the Hub: {explained(error, trainer.hub_model_id, hf_api())}")


def push_finished(args: Any, folder: Path) -> None:
    """Push the folder of a finished run to the repository that its arguments name, else that of the folder's name.

    Raises PublishError, which says that the model is in the folder all the same.
    """
    hub, name = hf_api(), args.hub_model_id or folder.resolve().name
    try:
        if "/" not in name:
            name = f"{open_hub(f'me/{name}', args.hub_token, hub.endpoint).whoami()['name']}/{name}"
        pushed = push(
            folder,
            name,
            private=bool(args.hub_private_repo),
            revision=args.hub_revision,
            token=args.hub_token,
            endpoint=hub.endpoint,
            message="End of training",
        )
    except PublishError as error:
        raise PublishError(f"{error}\n    The trained model is in {folder}; hfvision push sends it later.") from error
    report(f"the model is at {pushed.url}.")
