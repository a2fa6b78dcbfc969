#!/usr/bin/env bash
# Makes the environment of PyTorch/XLA (7 GB, some minutes; kept) and runs what needs it: tests/xla.sh [FOLDER]
set -euo pipefail
cd "$(dirname "$0")/.."

export OMP_NUM_THREADS=1 PJRT_DEVICE=CPU
folder=${1:-.venv-xla}
if [ ! -e "$folder/bin/activate" ]; then
    python3 -m venv "$folder"
fi
. "$folder/bin/activate"
# the last pair there is; one command, so that nothing moves torch
pip install --quiet torch==2.9.0 torch_xla==2.9.0 -e ".[test]"
python -m pytest -q -n 0 -m xla tests/slow/test_xla.py
