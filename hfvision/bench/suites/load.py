"""What it takes until a model can be used, each time in a new process: the import, and `from_pretrained`."""

import json
import subprocess
import sys
from typing import Any

from hfvision.bench.case import Case, Goal, Pair, Setting
from hfvision.bench.memory import child_environment
from hfvision.bench.suites import families as f
from hfvision.bench.suites.photos import Folder
from hfvision.bench.twins import quiet, twins

NOT_SLOWER = 0.95  # within what a clock can tell

_IMPORT = "now = time.{clock}(); import {module}; print(json.dumps([time.{clock}() - now, 0]))"
_LOAD = """
import torch; torch.set_num_threads({threads})
{imports}
now = time.{clock}()
model = {name}.from_pretrained({folder!r})
seconds = time.{clock}() - now
print(json.dumps([seconds, sum(int(p.detach().view(torch.int32).sum()) for p in model.parameters())]))
"""


def import_time(setting: Setting) -> Pair:
    """`import hfvision` beside `import transformers`."""

    def call(module: str) -> Any:
        return _in_child(_IMPORT.format(clock=_clock(setting), module=module))

    return _timed_inside(lambda: call("transformers"), lambda: call("hfvision"))


def from_pretrained(setting: Setting) -> Pair:
    """A ViT-B from a folder, with everything imported; the sum of its bits is compared."""
    from hfvision.bench.clock import default_threads

    theirs, _ = twins(f.VIT, Setting(), **f.sizes(f.VIT, setting, f.VIT_BASE))
    folder = Folder()
    with quiet():
        theirs.save_pretrained(folder.path)
    name = f.VIT.split(":")[1]

    def call(imports: str) -> Any:
        values = {
            "clock": _clock(setting),
            "threads": default_threads(setting),
            "name": name,
            "folder": str(folder.path),
        }
        return _in_child(_LOAD.format(imports=imports, **values))

    their_module = "transformers.models." + f.VIT.split(":")[0]
    return _timed_inside(
        lambda: call(f"from {their_module} import {name}"),
        lambda: call(f"import hfvision; {name} = hfvision.{name}"),
    )


def _timed_inside(theirs: Any, ours: Any) -> Pair:
    return Pair(
        theirs,
        ours,
        check=lambda: abs(theirs()[1] - ours()[1]),
        seconds=lambda answer: float(answer[0]),
    )


def _clock(setting: Setting) -> str:
    return "process_time" if setting.clock == "cpu" else "perf_counter"


def _in_child(code: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-c", f"import json, time\n{code}"],
        capture_output=True,
        text=True,
        check=True,
        env=child_environment(),
    )
    return json.loads(done.stdout.strip().splitlines()[-1])


CASES = (
    Case("import", import_time, Goal(seconds=0.1), tolerance=0.0, counts_flops=False, measures_memory=False),
    Case(
        "from-pretrained-vit-base",
        from_pretrained,
        Goal(NOT_SLOWER),
        tolerance=0.0,
        counts_flops=False,
        measures_memory=False,
    ),
)
