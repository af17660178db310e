#!/usr/bin/env bash
# transformers 5.24.0: HfArgumentParser changes the types of the dataclass that it is made of, for the whole process.
#
# Guess: a parser reads the fields of a dataclass and leaves the class as it is.
# Behavior: of a field with several types the parser writes the one that it parses back into the class's fields:
# `str | list[str] | None`, as TrainingArguments.report_to is declared, becomes `str` alone. `typing.get_type_hints` still
# tells the truth.
# Whom it meets: whoever makes forms, command lines or checks of TrainingArguments' fields beside a script that parses
# them: what they see depends on which ran first.
# What hfvision does: `hfvision train` takes the types of its options from the annotations.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q transformers==5.24.0
cd "$folder"

"$folder/env/bin/python" - <<'PYTHON'
import sys
from dataclasses import dataclass, fields
from typing import get_type_hints

from transformers import HfArgumentParser, __version__


@dataclass
class Options:
    report_to: None | str | list[str] = None
    eval_steps: float | None = None


print("transformers", __version__)
before = {one.name: one.type for one in fields(Options)}
HfArgumentParser(Options)
after = {one.name: one.type for one in fields(Options)}
for name in before:
    print(f"{name}: {before[name]} before, {after[name]} after; annotated {get_type_hints(Options)[name]}")
changed = all(before[name] != after[name] for name in before)
sys.exit(not (changed and get_type_hints(Options) == before))
PYTHON
