"""The whole way through a hub with hfvision's own tools, each step in a fresh process that knows only the endpoint.

An original checkpoint is converted and pushed with the default client (so through Xet), listed, used by name, and
fine-tuned with `push_to_hub=True` on a dataset from the hub by a process that ends halfway; another one, with an empty
cache, goes on from the checkpoint that the hub has.
"""

import json
import subprocess
import sys
import textwrap

import pytest

from hfvision.hub import commits, repositories
from hfvision.starters import STARTERS
from tests.hub.publishing import caller_of

HFVISION = "from hfvision.cli import main; main()"
DATASET = """
    import hfvision
    digits = hfvision.load_digits()
    digits["train"].select(range(48)).push_to_hub("me/few-digits", split="train")
    digits["test"].select(range(40)).push_to_hub("me/few-digits", split="test")
"""
USE = """
    import json, sys
    import hfvision
    from datasets import load_dataset
    from transformers import pipeline
    rows = load_dataset("me/few-digits", split="test")
    answers = pipeline("image-classification", model=sys.argv[1])(rows["image"], batch_size=8, top_k=1)
    print(json.dumps([answer[0]["label"] == str(row["label"]) for row, answer in zip(rows, answers)]))
"""
TRAINING = """
    import json, sys
    import hfvision, torch
    from datasets import load_dataset
    from huggingface_hub import snapshot_download
    from transformers import AutoImageProcessor, AutoModelForImageClassification, Trainer, TrainingArguments

    stop, resume = int(sys.argv[1]), len(sys.argv) > 2
    model = AutoModelForImageClassification.from_pretrained("me/digits-vit")
    processor = AutoImageProcessor.from_pretrained("me/digits-vit")
    rows = load_dataset("me/few-digits", split="train")

    def collate(batch):
        pixels = processor([row["image"] for row in batch], return_tensors="pt")
        return {**pixels, "labels": torch.tensor([row["label"] for row in batch])}

    args = TrainingArguments(  # always: or a push that is under way lets the next checkpoint pass
        "out", max_steps=6, per_device_train_batch_size=8, save_steps=1, remove_unused_columns=False, use_cpu=True,
        push_to_hub=True, hub_model_id="me/tuned-digits", hub_strategy="checkpoint", hub_always_push=True,
        report_to=[], seed=3,
    )
    trainer = Trainer(model, args, collate, rows, processing_class=processor)
    if not resume:
        from transformers import TrainerCallback

        class Stop(TrainerCallback):
            def on_step_end(self, args, state, control, **kwargs):
                control.should_training_stop = state.global_step == stop

        trainer.add_callback(Stop())
    start = None
    if resume:
        start = snapshot_download("me/tuned-digits", allow_patterns="last-checkpoint/*") + "/last-checkpoint"
    trainer.train(resume_from_checkpoint=start)
    trainer.push_to_hub()
    begun = None if start is None else json.load(open(start + "/trainer_state.json"))["global_step"]
    weights = float(sum(parameter.double().sum() for parameter in model.parameters()))
    print(json.dumps({"from": begun, "to": trainer.state.global_step, "weights": weights}))
"""


def fresh(server, home, *arguments):
    """What `python -c` with these arguments prints last, run in `home` with caches of its own there."""
    home.mkdir(exist_ok=True)
    code, *rest = arguments
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, rest)],
        env=server.environment(home / "cache"),
        cwd=home,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-4000:] + server.log.read_text()[-2000:]
    return done.stdout.strip().splitlines()[-1] if done.stdout.strip() else ""


@pytest.mark.slow
def test_from_an_original_checkpoint_to_a_fine_tune_that_was_resumed_from_the_hub(server, me, tmp_path):
    work = tmp_path / "work"
    fresh(server, work, HFVISION, "convert", STARTERS["vit-digits"], "digits.npz", "--to", "original")
    (work / "digits.json").write_text(json.dumps([str(digit) for digit in range(10)]))
    options = ("--labels", "digits.json", "--license", "apache-2.0")
    fresh(server, work, HFVISION, "convert", "digits.npz", "digits-vit", *options)
    fresh(server, work, HFVISION, "push", "digits-vit", "me/digits-vit")
    assert "/v1/xorbs/" in server.log.read_text()  # no fallback: the default client's own protocol

    rows = me.get("/api/models", params={"author": "me", "filter": "vit", "search": "digits-vit"}).json()
    assert [(row["id"], row["pipeline_tag"], row["library_name"]) for row in rows] == [
        ("me/digits-vit", "image-classification", "transformers")
    ]
    assert me.get("/api/models/me/digits-vit").json()["cardData"]["license"] == "apache-2.0"

    config = json.loads((work / "digits-vit" / "config.json").read_text())
    (work / "digits-vit" / "config.json").write_text(json.dumps({**config, "note": "by a pull request"}))
    fresh(server, work, HFVISION, "push", "digits-vit", "me/digits-vit", "--create-pr", "--message", "A note")
    assert "note" not in me.get("/me/digits-vit/resolve/main/config.json").json()
    fresh(server, work, "from huggingface_hub import HfApi; HfApi().merge_pull_request('me/digits-vit', 1)")
    assert me.get("/me/digits-vit/resolve/main/config.json").json()["note"] == "by a pull request"

    fresh(server, tmp_path / "publisher", DATASET)
    right = json.loads(fresh(server, tmp_path / "reader", USE, "me/digits-vit"))
    assert sum(right) >= 38

    straight = json.loads(fresh(server, tmp_path / "straight", TRAINING.replace("tuned-digits", "straight"), 6))
    halfway = json.loads(fresh(server, tmp_path / "halfway", TRAINING, 3))
    resumed = json.loads(fresh(server, tmp_path / "resumed", TRAINING, 6, "resume"))
    assert [(run["from"], run["to"]) for run in (straight, halfway, resumed)] == [(None, 6), (None, 3), (3, 6)]
    assert abs(resumed["weights"] - straight["weights"]) < 1e-6 < abs(halfway["weights"] - straight["weights"])
    tuned = repositories.find(server.hub, caller_of(server.hub), "model", "me/tuned-digits")
    titles = {commit.title for commit in commits.history(server.hub, tuned, "main").items}
    assert titles >= {"Training in progress, step 3, checkpoint", "Training in progress, step 6, checkpoint"}
    assert sum(json.loads(fresh(server, tmp_path / "reader", USE, "me/tuned-digits"))) >= 38
