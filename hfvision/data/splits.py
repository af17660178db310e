"""Which splits are trained on and measured with, and what is held out where there is one only."""

from collections.abc import Callable, Collection, Sequence

import numpy as np
import numpy.typing as npt

from hfvision.errors import DatasetError
from hfvision.reporting import report

TRAIN_SPLITS = ("train", "training")
EVALUATION_SPLITS = ("validation", "valid", "val", "dev", "test", "testing")  # the first that exists
HELD_OUT_SEED = 0

Rows = npt.NDArray[np.int64]


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


def hold_out(split: str, groups: Sequence[Rows], share: float, each: str = "") -> tuple[Rows, Rows]:
    """Rows to train on and rows held out: of each group the same share, at least one where it has two.

    Reports what was cut off; `each` says what the groups are ("class"). Raises DatasetError if that leaves nothing.
    """
    if not 0 < share < 1:
        raise DatasetError(f"held_out is the share of images to hold out, between 0 and 1; got {share}.")
    generator = np.random.default_rng(HELD_OUT_SEED)
    held: list[int] = []
    for group in groups:
        rows = generator.permutation(group)
        held.extend(rows[: min(len(rows) - 1, max(1, round(share * len(rows))))].tolist() if len(rows) > 1 else [])
    if not held:
        one = f"one image per {each}" if each else "one image"
        raise DatasetError(f"{split!r} has {one}: nothing can be held out. Add images or give an eval_split.")
    everything = np.sort(np.concatenate(groups))
    is_held = np.isin(everything, held)
    report(
        f"there is no validation or test split: {len(held):,} of {len(everything):,} images were held out of "
        f"{split!r} ({share:.0%}{each and f' of each {each}'}, seed {HELD_OUT_SEED})."
    )
    return everything[~is_held], everything[is_held]


def held_out_name(split: str, share: float) -> str:
    """What the images held out of a split are called."""
    return f"{share:.0%} held out of {split}"
