"""A pipeline for a model of any of our tasks, found by the model itself."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hfvision.errors import CheckpointReadError, ConfigError, HfvisionError, UnknownNameError
from hfvision.registry import ARCHITECTURES, class_name
from hfvision.starters import STARTERS, resolve
from hfvision.tasks import TASKS

# tasks of which a pipeline tells something that needs no further work
ANSWERED = [(task, task.auto_class) for task in TASKS if task.answer and task.auto_class]


def load_pipeline(model: str, device: str | int | None = None, optimize: Any = None) -> Any:
    """The pipeline of a starter model, a folder or a Hub id; optimize: see AnyImages. Raises UnknownNameError where
    there is no such model, CheckpointReadError for one that cannot be loaded, and ConfigError for a device that this
    machine has not, for what optimize cannot be, and for a model without a head that answers anything.
    """
    from transformers import pipeline

    check_device(device)
    options: dict[str, Any] = {}
    if optimize is not None:  # what it cannot be is said before anything is loaded
        from hfvision.optimizing import optimize_options

        options["optimize"] = optimize_options(optimize)
    task: Any = _task(load_config(model))
    with _known(model):
        return pipeline(task, model=resolve(model), device=device, **options)


def load_config(model: str) -> Any:
    """The config of a starter model, a folder or a Hub id. Raises UnknownNameError where there is no such model."""
    from transformers import AutoConfig

    with _known(model):
        return AutoConfig.from_pretrained(resolve(model))


@contextmanager
def _known(model: str) -> Iterator[None]:
    try:
        yield
    except HfvisionError:
        raise
    except OSError as error:
        raise UnknownNameError(
            f"{model!r} is none of the starter models ({', '.join(STARTERS)}), not a folder with config.json and "
            f"model.safetensors, and cannot be had from the Hub: {str(error).splitlines()[0]}"
        ) from error
    except Exception as error:  # whatever a broken config or checkpoint makes a library raise
        raise CheckpointReadError(f"{model!r} cannot be loaded: {type(error).__name__}: {error}") from error


def check_device(device: Any) -> None:
    """Raises ConfigError for what is no device, or one that this machine or this build of torch has not."""
    import torch

    if device is None or isinstance(device, int):  # transformers' numbers: the first accelerator there is, or the CPU
        return
    try:
        wanted = torch.device(device)
    except (RuntimeError, TypeError):
        raise ConfigError(f"device is cpu, cuda, cuda:1 or mps; got {device!r}") from None
    known = {"cuda": torch.cuda.device_count, "mps": lambda: int(torch.backends.mps.is_available())}
    if wanted.type == "cpu" or wanted.type not in known:
        return
    there = known[wanted.type]()
    if not there:
        why = " (torch is built without it)" if wanted.type == "cuda" and not torch.backends.cuda.is_built() else ""
        raise ConfigError(f"device {str(device)!r}: this machine has no {wanted.type} device{why}; it has cpu")
    if (wanted.index or 0) >= there:
        raise ConfigError(f"device {str(device)!r}: this machine has {there} of them, from {wanted.type}:0")


def _task(config: Any) -> str:
    """The task of the class that the checkpoint names; of others, the first that the architecture can do."""
    row = ARCHITECTURES.get(config.model_type)
    offered = [(task, auto) for task, auto in ANSWERED if row is not None and auto in row.models]
    for task, auto_class in offered:
        if row is not None and {class_name(one) for one in row.offered(auto_class)} & {*(config.architectures or ())}:
            return task.name
    if row is not None and (named := row.named(config.architectures or ())):
        raise ConfigError(
            f"the model is a {class_name(named[1])}, without a head that classifies, segments or detects: fine-tune it "
            'first (hfvision train), or take its features with pipeline("image-feature-extraction")'
        )
    return offered[0][0].name if offered else ANSWERED[0][0].name
