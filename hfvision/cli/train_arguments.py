"""The fields of VisionTrainingArguments as options of `hfvision train`; importing it brings neither torch nor them."""

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any, get_args, get_origin, get_type_hints

from hfvision.cli.options import changed_option
from hfvision.options import Option, flag_of, names_listed

# Fields that the command line does not have, and why; those that mean nothing for images say it themselves.
REFUSED = {
    "resume_from_checkpoint": "--resume goes on after the last checkpoint of --output",
    "hub_token": "others on the machine can read a command line; log in by hf auth login, or set HF_TOKEN",
    "parallelism_config": "it is an object of accelerate: give it in Python",
    "remove_unused_columns": "the images would be dropped before they are prepared",
    "prediction_loss_only": "nothing would be measured",
    "label_names": "the task says it",
    "batch_eval_metrics": "held-out images are counted batch by batch",
    "eval_do_concat_batches": "held-out images are counted batch by batch",
    "include_for_metrics": "the metric of a task gets what it needs",
    "do_train": "it is for scripts of one's own",
    "do_eval": "it is for scripts of one's own",
    "do_predict": "it is for scripts of one's own",
    "local_rank": "torchrun and accelerate launch say it",
}
RENAMED = ("gradient_checkpointing", "gradient_checkpointing_kwargs")  # in transformers, to activation_...
# Names that are shorter than the field's; every name in OTHER_NAMES is understood.
SHORT = ("epochs", "batch_size", "gradient_accumulation", "warmup", "drop_path", "save_every", "workers", "patience")
FLAGS = {"load_best_model_at_end": "--keep-best/--keep-last"}


def options_of_arguments(task: str) -> tuple[list[Option], list[Option]]:
    """Of a recipe, such as "object-detection": the options that most trainings need, and all others."""
    from transformers import TrainingArguments

    from hfvision.training.arguments import MEANINGLESS, NEW, OTHER_NAMES, VisionTrainingArguments, defaults_of
    from hfvision.training.settings import SAME

    theirs = {one.name: one for one in fields(TrainingArguments)}
    kinds = get_type_hints(VisionTrainingArguments)  # not the fields' own, which transformers' HfArgumentParser changes
    flags = {OTHER_NAMES[name]: "--" + name.replace("_", "-") for name in SHORT} | FLAGS
    defaults, of_new = defaults_of(task, None), defaults_of(task, NEW)
    common: list[Option] = []
    rest: list[Option] = []
    for one in fields(VisionTrainingArguments):
        name = one.name
        if name in REFUSED or name in MEANINGLESS or name in (*RENAMED, "output_dir"):
            continue
        value = defaults.get(name, one.default)
        words = "" if value in (None, MISSING) or isinstance(value, bool) else _text(value)
        if of_new.get(name, value) != value:
            words += f"; new weights: {_text(of_new[name])}"
        about = {**theirs[name].metadata, **one.metadata} if name in theirs else one.metadata
        made = changed_option(
            one,
            help=_first_sentence(about["help"]),
            **{"shown": words.removeprefix("; "), "flags": flags.get(name), "parse": _parser(kinds[name])},
        )
        made.type = kinds[name]
        is_common = name in SAME.values() or name == "max_steps" or name not in theirs
        (common if is_common else rest).append(made)
    return common, rest


def refused_arguments() -> dict[str, str]:
    """{field: why it is no option}."""
    from hfvision.training.arguments import MEANINGLESS

    return REFUSED | {name: why for name, (_, why) in MEANINGLESS.items()}


def other_spellings(options: list[Option]) -> dict[str, str]:
    """Further names of the fields, as they are spelled, with the one that the help shows."""
    from hfvision.training.arguments import OTHER_NAMES

    shown = {one.name: flag_of(one)[2:] for one in options}
    names = {other: name for other, name in OTHER_NAMES.items() if name in shown}
    names |= {old: old.replace("gradient", "activation") for old in RENAMED}
    spelled = {other.replace("_", "-"): shown[name] for other, name in names.items()}
    return {"output-dir": "output"} | {other: flag for other, flag in spelled.items() if other != flag}


def whole_steps(given: Mapping[str, Any]) -> dict[str, Any]:
    """Steps as whole numbers, which a field may also have as a share."""
    return {
        name: int(value) if name.endswith("_steps") and value >= 1 and value == int(value) else value
        for name, value in given.items()
    }


def _first_sentence(help: str) -> str:
    """Without markup and brackets, which the help of a command would read as its own."""
    plain = help.replace("`", "").replace("[", "(").replace("]", ")").replace("%%", "%")
    return plain.partition(". ")[0].rstrip(".") + "."


def _parser(kind_of_field: Any) -> Any:
    """How a text becomes a value that is no number, where a field takes other than texts."""
    kinds: list[Any] = [kind_of_field, *get_args(kind_of_field)]
    if any(get_origin(kind) is list for kind in kinds):
        return names_listed
    if any(False in get_args(kind) for kind in kinds if get_args(kind)):  # Literal[False]
        return lambda text: False if text.lower() == "false" else text
    return None


def _text(value: Any) -> str:
    value = getattr(value, "value", value)
    return f"{value:g}" if isinstance(value, float) else str(value)
