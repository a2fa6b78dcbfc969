# shellcheck shell=bash disable=SC2034
# What device_all.sh and device_hardware.sh begin with: where files go, which Python, and whether there is a GPU.
# SHAPE=tiny tries a script on the CPU.
set -u
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
out=$(realpath -m "${OUT:-out}")
python=${PYTHON:-python}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir -p "$out"
export PYTHONPATH="$here:$(dirname "$here")${PYTHONPATH:+:$PYTHONPATH}" PYTORCH_ALLOC_CONF=expandable_segments:True

device=cuda
if ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    device=cpu
    if [ "${SHAPE:-}" != tiny ]; then
        echo "no CUDA device: nothing to measure (SHAPE=tiny tries the script on the CPU)" >&2
        exit 0
    fi
fi
