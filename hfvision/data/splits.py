"""Which splits are trained on and measured with, and what is held out where there is one only."""

from collections.abc import Callable, Collection

from hfvision.errors import DatasetError

TRAIN_SPLITS = ("train", "training")
EVALUATION_SPLITS = ("validation", "valid", "val", "dev", "test", "testing")  # the first that exists


def choose_splits(
    name: str,
    splits: Collection[str],
    train: str | None,
    evaluation: str | None,
    is_labelled: Callable[[str], bool],
    evaluate_only: bool = False,
) -> tuple[str, str | None]:
    """The splits to train on and to measure with, as asked for or by their names; None: none to measure with. With
    `evaluate_only` nothing is trained: both are the split to measure with, a data set's only one among them.

    Raises DatasetError for splits that do not exist, that are the same, or between which names do not decide.
    """
    wrong = [
        f"{what}={split!r}"
        for what, split in (("train_split", train), ("eval_split", evaluation))
        if split is not None and split not in splits
    ]
    if wrong:
        raise DatasetError(f"{name} has no split for {' and '.join(wrong)}; it has {', '.join(splits)}.")
    if evaluate_only:
        measured = evaluation or next((s for s in EVALUATION_SPLITS if s in splits and is_labelled(s)), None)
        if measured is None and len(splits) > 1:
            raise DatasetError(f"{name} has the splits {', '.join(splits)}; say which to measure on: eval_split=...")
        measured = measured or next(iter(splits))
        return measured, measured
    if train is None:
        candidates = [split for split in TRAIN_SPLITS if split in splits] or [s for s in splits if s != evaluation]
        if len(candidates) > 1 and candidates[0] not in TRAIN_SPLITS:
            raise DatasetError(f"{name} has the splits {', '.join(splits)}; say which to train on: train_split=...")
        if not candidates:
            raise DatasetError(f"{name} has only the split {evaluation!r}; there is none left to train on.")
        train = candidates[0]
    if train == evaluation:
        raise DatasetError(f"train_split and eval_split are both {train!r}; figures need images not trained on.")
    if evaluation is None:
        evaluation = next((s for s in EVALUATION_SPLITS if s in splits and s != train and is_labelled(s)), None)
    return train, evaluation


def held_out_name(split: str, share: float) -> str:
    """What the images held out of a split are called."""
    return f"{share:.0%} held out of {split}"
