"""Runs are lengthened: finished ones with a schedule for what is added, interrupted ones along a longer schedule."""

import json
from dataclasses import replace

import pytest

from hfvision.errors import ConfigError
from hfvision.training.arguments import VisionTrainingArguments
from tests import test_training
from tests.test_training import Stop, assert_same_weights, jitter, start, weights

reports, zeros_and_ones = test_training.reports, test_training.zeros_and_ones  # fixtures

SETTINGS = VisionTrainingArguments(
    num_train_epochs=2, per_device_train_batch_size=8, learning_rate=2e-3
)  # 40 images: 5 steps an epoch
LONGER = replace(SETTINGS, num_train_epochs=4)


def record(folder):
    return json.loads((folder / "training_run.json").read_text())


class Rates:
    """Records the learning rate and the images of every step."""

    def __init__(self):
        from transformers import TrainerCallback

        self.rates, outer = [], self

        class Callback(TrainerCallback):
            def on_step_end(self, args, state, control, lr_scheduler=None, **_):
                outer.rates.append(lr_scheduler.get_last_lr()[0])

        self.callback = Callback()


def test_a_finished_run_goes_on_with_a_schedule_of_its_own(zeros_and_ones, tmp_path, reports):
    out = tmp_path / "out"
    first = start(zeros_and_ones, out, args=SETTINGS, augment=jitter)
    before = weights(out)
    seen = Rates()
    result = start(zeros_and_ones, out, args=LONGER, augment=jitter, resume=True, callbacks=[seen.callback])
    assert (result.steps, result.epochs) == (20, 4)
    assert [entry["step"] for entry in result.history] == [5, 10, 15, 20]
    assert result.history[:2] == first.history
    assert result.lengthened == [{"step": 10, "schedule": "restarted"}]
    assert any((before[name] != tensor).any() for name, tensor in weights(out).items())
    assert len(seen.rates) == 10
    assert max(seen.rates) == pytest.approx(2e-3, rel=0.05)  # as high as in the beginning,
    assert seen.rates[-1] == pytest.approx(0, abs=1e-8)  # and down to nothing again
    assert "finished after 10 steps: it is lengthened. The learning rate starts anew" in reports.text
    assert "restarted at step 10" in (out / "README.md").read_text()
    assert record(out)["plan"]["settings"]["epochs"] == 4
    assert "before" not in record(out)
    assert not list(out.glob("checkpoint-*"))


@pytest.mark.slow
def test_what_is_added_is_the_same_every_time_and_after_an_interruption(zeros_and_ones, tmp_path):
    for name in ("straight", "again", "interrupted"):
        start(zeros_and_ones, tmp_path / name, args=SETTINGS, augment=jitter)
    for name in ("straight", "again"):
        start(zeros_and_ones, tmp_path / name, args=LONGER, augment=jitter, resume=True)
    out = tmp_path / "interrupted"
    with pytest.raises(KeyboardInterrupt):
        start(zeros_and_ones, out, args=LONGER, augment=jitter, resume=True, callbacks=[Stop(7)])
    assert (out / "model.safetensors").exists()  # that of the finished run
    result = start(zeros_and_ones, out, args=LONGER, augment=jitter, resume=True)
    assert (result.resumed_from, result.steps) == (15, 20)
    assert_same_weights(weights(tmp_path / "straight"), weights(tmp_path / "again"))
    assert_same_weights(weights(tmp_path / "straight"), weights(out))


def test_what_is_added_sees_other_epochs(zeros_and_ones, tmp_path):
    draws = []

    def note(image, generator):
        draws.append(generator.random())
        return image

    start(zeros_and_ones, tmp_path / "out", args=SETTINGS, augment=note)
    first = set(draws)
    draws.clear()
    start(zeros_and_ones, tmp_path / "out", args=LONGER, augment=note, resume=True)
    assert len(set(draws)) == 80
    assert not first & set(draws)


def test_a_failure_before_the_first_checkpoint_leaves_the_finished_run(zeros_and_ones, tmp_path):
    out = tmp_path / "out"
    start(zeros_and_ones, out, args=SETTINGS)
    kept, files = record(out), weights(out)
    with pytest.raises(KeyboardInterrupt):
        start(zeros_and_ones, out, args=LONGER, resume=True, callbacks=[Stop(2)])
    assert record(out) == kept
    assert_same_weights(files, weights(out))
    assert start(zeros_and_ones, out, args=SETTINGS, resume=True).steps == 10  # finished, as before


def test_an_interrupted_run_goes_on_along_the_longer_schedule(zeros_and_ones, tmp_path, reports):
    for name in ("one", "two"):
        out = tmp_path / name
        with pytest.raises(KeyboardInterrupt):
            start(zeros_and_ones, out, args=SETTINGS, callbacks=[Stop(8)])
        seen = Rates()
        result = start(zeros_and_ones, out, args=LONGER, resume=True, callbacks=[seen.callback])
        assert (result.steps, result.resumed_from) == (20, 5)
        assert result.lengthened == [{"step": 5, "schedule": "stretched"}]
    whole = Rates()
    start(zeros_and_ones, tmp_path / "whole", args=LONGER, callbacks=[whole.callback])
    assert seen.rates == pytest.approx(whole.rates[5:])
    assert "goes on at that place of the longer schedule" in reports.text
    assert_same_weights(weights(tmp_path / "one"), weights(tmp_path / "two"))


def test_a_run_killed_after_its_last_step_is_lengthened_too(zeros_and_ones, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        start(zeros_and_ones, out, args=SETTINGS, callbacks=[Stop(when="on_train_end")])
    result = start(zeros_and_ones, out, args=LONGER, resume=True)
    assert (result.steps, result.epochs) == (20, 4)


def test_weights_stay_where_nothing_that_is_added_is_better(zeros_and_ones, tmp_path, reports):
    out = tmp_path / "out"
    args = VisionTrainingArguments(
        num_train_epochs=8, per_device_train_batch_size=8, learning_rate=5e-3, load_best_model_at_end=True
    )
    first = start(zeros_and_ones, out, args=args)
    kept = weights(out)
    worse = replace(args, num_train_epochs=9)
    record_before = record(out)
    record_before["result"]["metrics"]["accuracy"] = 1.1  # better than anything can be
    (out / "training_run.json").write_text(json.dumps(record_before))
    result = start(zeros_and_ones, out, args=worse, resume=True)
    assert result.accuracy == first.accuracy
    assert_same_weights(kept, weights(out))
    assert "the weights stay as they were" in reports.text


def test_steps_lengthen_as_epochs_do(zeros_and_ones, tmp_path):
    out = tmp_path / "out"
    start(zeros_and_ones, out, args=replace(SETTINGS, max_steps=4))
    result = start(zeros_and_ones, out, args=replace(SETTINGS, max_steps=7), resume=True)
    assert (result.steps, result.lengthened) == (7, [{"step": 4, "schedule": "restarted"}])
    again = start(zeros_and_ones, out, args=replace(SETTINGS, max_steps=9), resume=True)
    assert [entry["step"] for entry in again.lengthened] == [4, 7]


@pytest.mark.parametrize("changes", [{"num_train_epochs": 1}, {"num_train_epochs": 4, "learning_rate": 1e-3}])
def test_nothing_else_may_differ(changes, zeros_and_ones, tmp_path):
    start(zeros_and_ones, tmp_path / "out", args=SETTINGS)
    with pytest.raises(ConfigError, match="more epochs or steps lengthen a run"):
        start(zeros_and_ones, tmp_path / "out", args=replace(SETTINGS, **changes), resume=True)
