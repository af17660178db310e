"""Settings of a run as hfvision 0.4 has them: in the records of runs, on the command line, and in TrainingSettings.

A run that was begun with 0.4 is resumed by comparing its recorded settings with those of the call, so the record keeps
their names; whatever else decides the weights stands beside them as "arguments", under the names of TrainingArguments.
"""

import warnings
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields, replace
from enum import Enum
from typing import Any

from hfvision.errors import ConfigError
from hfvision.training.arguments import (
    DETECTION,
    DETECTION_FROM_SCRATCH,
    FROM_SCRATCH,
    OTHER_NAMES,
    VisionTrainingArguments,
    is_new,
)

PRECISIONS = ("fp32", "bf16", "fp16")
MOVED = ("patience", "trunk_rate_factor")  # options of tasks in 0.4, which are arguments now
ANY_WEIGHTS = ("eval_batch_size", "workers")  # settings that change no weight, so that a resumed run may change them
# The same of TrainingArguments: where things go, who is told, how fast it is done.
ANY_WEIGHTS_EITHER = frozenset(
    {
        *("output_dir", "run_name", "project", "report_to", "logging_strategy", "logging_steps", "logging_first_step"),
        *("log_level", "log_level_replica", "log_on_each_node", "logging_nan_inf_filter", "disable_tqdm", "debug"),
        *("trackio_space_id", "trackio_bucket_id", "trackio_static_space_id", "push_to_hub", "hub_token"),
        *("hub_private_repo", "hub_model_id", "hub_strategy", "hub_always_push", "hub_revision"),
        *("save_total_limit", "save_on_each_node", "save_only_model", "enable_jit_checkpoint", "skip_memory_metrics"),
        *("dataloader_pin_memory", "dataloader_persistent_workers", "dataloader_prefetch_factor"),
        *("dataloader_multiprocessing_context", "dataloader_in_order", "remove_unused_columns", "label_names"),
        *("batch_eval_metrics", "eval_accumulation_steps", "eval_do_concat_batches", "eval_use_gather_object"),
        *("eval_on_start", "include_for_metrics", "prediction_loss_only", "bf16_full_eval", "fp16_full_eval"),
        *("torch_empty_cache_steps", "resume_from_checkpoint", "restore_callback_states_from_checkpoint"),
        *("do_train", "do_eval", "do_predict", "local_rank", "use_cpu", "ddp_find_unused_parameters"),
        *("ddp_bucket_cap_mb", "ddp_broadcast_buffers", "ddp_static_graph", "ddp_backend", "ddp_timeout"),
        *("gradient_checkpointing", "gradient_checkpointing_kwargs", "accelerator_config"),
    }
)


def arguments_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of VisionTrainingArguments that settings, by their short names, become."""
    names = OTHER_NAMES | SAME
    given = {names[name]: value for name, value in settings.items() if name in names and name != "precision"}
    if "max_steps" in settings:
        given["max_steps"] = -1 if settings["max_steps"] is None else settings["max_steps"]
    if (precision := settings.get("precision", "fp32")) not in PRECISIONS:
        raise ConfigError(f"precision is one of {', '.join(PRECISIONS)}; got {precision!r}")
    if precision != "fp32":
        given[precision] = True
    return given


def settings_of(args: VisionTrainingArguments) -> dict[str, Any]:
    """The settings, by their short names, that decide which weights come out."""
    steps = args.save_steps if _is_saved_by_steps(args) else None
    found = {
        name: getattr(args, SAME[name]) for name in (one.name for one in fields(TrainingSettings)) if name in SAME
    } | {
        "max_steps": args.max_steps if args.max_steps > 0 else None,
        "precision": "bf16" if args.bf16 else "fp16" if args.fp16 else "fp32",
        "save_every": steps,
    }
    order = [one.name for one in fields(TrainingSettings) if one.name not in ANY_WEIGHTS]
    return {name: _plain(found[name]) for name in order}


def further_arguments_of(args: VisionTrainingArguments) -> dict[str, Any]:
    """Fields of TrainingArguments beside the settings that differ from their defaults and may change the weights."""
    together = args.eval_strategy == args.save_strategy and args.eval_steps == args.save_steps
    covered = {*SAME.values(), "max_steps", "bf16", "fp16", *ANY_WEIGHTS_EITHER}
    covered |= {"eval_strategy", "eval_steps", "save_strategy"} if together and args.save_strategy != "best" else set()
    further = {}
    for one in fields(args):
        default = one.default if one.default_factory is MISSING else one.default_factory()
        value = getattr(args, one.name)
        if one.name not in covered and value != default and value is not None:
            further[one.name] = _plain(value)
    return further


def _is_saved_by_steps(args: VisionTrainingArguments) -> bool:
    return bool(args.save_strategy == "steps")


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, Enum) else value


@dataclass(frozen=True)
class TrainingSettings:
    """VisionTrainingArguments by the names of hfvision 0.4, kept for one version; see SAME for the names now.

    Raises ConfigError as they do.

    Example:
        >>> import hfvision, warnings
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("ignore", DeprecationWarning)
        ...     settings = hfvision.TrainingSettings(epochs=2, batch_size=8)
        >>> settings.batch_size
        8
    """

    epochs: float = 3.0
    max_steps: int | None = None  # optimizer steps; goes before epochs
    batch_size: int = 32  # images per device and step
    gradient_accumulation: int = 1  # batches per optimizer step
    learning_rate: float = 5e-5  # the highest, of AdamW
    head_rate_factor: float | None = None  # times learning_rate, for the head; None: as the task has it
    scheduler: str = "cosine"  # a name that transformers knows
    warmup: float = 0.1  # share of the steps (below 1), or their number
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    drop_path: float = 0.0  # stochastic depth of the last block
    seed: int = 0
    precision: str = "fp32"  # or mixed: "bf16", "fp16" (GPU only)
    activation_checkpointing: bool = False  # less memory, about a third more time
    save_every: int | None = None  # steps between checkpoints, each evaluated; None: after every epoch
    keep_best: bool = False  # end with the checkpoint of the best held-out figure rather than the last
    eval_batch_size: int | None = None  # None: batch_size
    workers: int = 0  # processes that read images

    def __post_init__(self) -> None:
        self.arguments()

    @classmethod
    def for_model(cls, model: object, **given: Any) -> "TrainingSettings":
        """The defaults for a model, those for new weights behind "new:", with what is given in their place."""
        return cls(**{**_short(FROM_SCRATCH if is_new(model) else {}), **given})

    @classmethod
    def for_detector(cls, model: object, **given: Any) -> "TrainingSettings":
        """The same for detection and panoptic segmentation."""
        return cls(**{**_short(DETECTION_FROM_SCRATCH if is_new(model) else DETECTION), **given})

    def arguments(self) -> VisionTrainingArguments:
        """The same as VisionTrainingArguments."""
        return VisionTrainingArguments(**arguments_of(asdict(self)))


SAME = {  # setting: field of VisionTrainingArguments with the same value
    one.name: OTHER_NAMES.get(one.name, one.name)
    for one in fields(TrainingSettings)
    if one.name not in ("max_steps", "precision")
}


def _short(arguments: Mapping[str, Any]) -> dict[str, Any]:
    names = {theirs: ours for ours, theirs in SAME.items()}
    return {names[name]: value for name, value in arguments.items()}


def chosen(
    args: VisionTrainingArguments | Mapping[str, Any] | None,
    settings: TrainingSettings | None,
    options: dict[str, Any],
) -> VisionTrainingArguments | Mapping[str, Any] | None:
    """The arguments of a call that may still give some of them the old way; what `options` hold of them is taken out.

    Raises ConfigError where both are given.
    """
    moved = {OTHER_NAMES[name]: options.pop(name) for name in MOVED if name in options}
    moved = {name: value for name, value in moved.items() if value is not None}
    if settings is not None:
        if args is not None:
            raise ConfigError("args and settings say the same; give args alone.")
        _deprecated(
            "settings=TrainingSettings(...)",
            "args=VisionTrainingArguments(...), or args={...} with the fields that differ from the task's defaults",
        )
        args = settings.arguments()
    if not moved:
        return args
    said = vars(args) if isinstance(args, VisionTrainingArguments) else args or {}
    if twice := [name for name, value in moved.items() if said.get(name) not in (None, value)]:
        raise ConfigError(f"{', '.join(twice)}: args and an older name say different things; give args alone.")
    names = ", ".join(moved)
    _deprecated(f"an older name of {names}", f"args={{...}} with {names}")
    return replace(args, **moved) if isinstance(args, VisionTrainingArguments) else {**said, **moved}


def _deprecated(what: str, instead: str) -> None:
    said = f"{what} is deprecated and will be removed: give {instead}."
    warnings.warn(said, DeprecationWarning, stacklevel=4)
