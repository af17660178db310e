#!/usr/bin/env bash
# torch 2.13.0: inductor's cache on disk knows a custom operator by its name; what its fake answers is no part of the key.
#
# Guess: a graph is compiled anew once the registered fake of an operator in it says other strides.
# Behavior: the graph of before is taken from the cache (on by default, shared by all processes of a user), and the first
# call ends in an AssertionError about sizes and strides. An empty TORCHINDUCTOR_CACHE_DIR, or another name of the
# operator, helps.
# Whom it meets: whoever compiles models with a library that registers operators, and upgrades that library.
# What hfvision does: an operator whose answer has other shapes or strides than before gets a new name.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q torch==2.13.0 numpy
cd "$folder"
cat >one.py <<'PY'
import sys

import torch

upgraded = sys.argv[1] == "upgraded"
order = torch.channels_last if upgraded else torch.contiguous_format
torch.library.define("example::twice", "(Tensor x) -> Tensor")
torch.library.impl("example::twice", "cpu")(lambda x: (2 * x).contiguous(memory_format=order))
torch.library.register_fake("example::twice")(lambda x: torch.empty_like(x, memory_format=order))


@torch.compile
def graph(x):
    return torch.ops.example.twice(x) + 1


with torch.no_grad():
    try:
        graph(torch.zeros(1, 3, 4, 5))
        print(sys.argv[1], "runs")
    except AssertionError as error:
        print(sys.argv[1], "ends in an AssertionError:", "stride" in str(error))
PY
said() { TORCHINDUCTOR_CACHE_DIR="$folder/$1" env/bin/python one.py "$2"; }
said shared released | tee released
said shared upgraded | tee upgraded
said fresh upgraded | tee alone
grep -qx "released runs" released && grep -qx "upgraded runs" alone || { echo "this has changed"; exit 1; }
grep -qx "upgraded ends in an AssertionError: True" upgraded || { echo "this has changed"; exit 1; }
