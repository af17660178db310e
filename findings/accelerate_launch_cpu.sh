#!/usr/bin/env bash
# accelerate 1.15.0: `accelerate launch --cpu --num_processes 2` starts one process, without a word.
#
# Guess: two processes start, as with GPUs.
# Behavior: on the CPU alone, num_processes is heeded only with --mpirun_hostfile; the script runs once, with MASTER_PORT
# but without WORLD_SIZE. `torchrun --nproc_per_node 2` starts two.
# Whom it meets: everyone who tries a training in several processes on a machine without GPUs.
# What hfvision does: the manual names torchrun.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q torch==2.13.0 accelerate==1.15.0
cd "$folder"
export HF_HOME="$folder"
echo 'import os; print("rank", os.environ.get("RANK"), "of", os.environ.get("WORLD_SIZE"))' >two.py

echo "accelerate $("$folder/env/bin/python" -c 'from importlib.metadata import version; print(version("accelerate"))')"
said=$("$folder/env/bin/accelerate" launch --cpu --num_processes 2 two.py 2>errors.txt)
echo "accelerate launch: $said"
[ "$said" = "rank None of None" ] || { echo "this has changed"; exit 1; }
said=$("$folder/env/bin/torchrun" --nproc_per_node 2 two.py 2>errors.txt | sort)
echo "torchrun:" $said
[ "$(echo "$said" | wc -l)" = 2 ]
