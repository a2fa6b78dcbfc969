#!/usr/bin/env bash
# All benchmarks on a machine with a CUDA device, within ten minutes; tables last, JSON and logs in $OUT or ./out.
#   bash benchmarks/device_all.sh            2B and 8B shapes, random weights
#   SHAPES=2b bash benchmarks/device_all.sh  one of them
set -u
here=$(cd "$(dirname "$0")" && pwd)
out=$(realpath -m "${OUT:-out}")
python=${PYTHON:-python}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir -p "$out"
export PYTHONPATH="$(dirname "$here")${PYTHONPATH:+:$PYTHONPATH}" OMP_NUM_THREADS=1 PYTORCH_ALLOC_CONF=expandable_segments:True

if ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    echo "no CUDA device: nothing to measure (benchmarks/*.py run on a CPU one by one)" >&2
    exit 0
fi

names=()
# measure NAME SECONDS SCRIPT ARGUMENTS...: a script that is missing, fails or takes too long costs its own rows only
measure() {
    local name=$1 seconds=$2 script=$3
    shift 3
    if [ ! -f "$here/$script" ]; then
        echo "$name: skipped, there is no $script"
        return
    fi
    names+=("$name")
    local start=$SECONDS
    timeout "$seconds" "$python" "$here/$script" "$@" --json "$out/$name.json" >"$out/$name.txt" 2>"$out/$name.log"
    local status=$?
    [ $status -eq 0 ] || echo "skipped: exit status $status (124: over $seconds s), see $out/$name.log" >>"$out/$name.txt"
    echo "$name: exit status $status, $((SECONDS - start)) s"
}

measure ceilings 30 ceilings.py --device cuda
# the shape 32k x 4096 would take 20 GiB of float32 logits in full
measure head 60 head.py --device cuda --dtype bfloat16 --hidden 4096 --rows 32768 --heads recompute one-pass trl
measure head_full 40 head.py --device cuda --dtype bfloat16 --hidden 4096 --rows 4096 --repeats 3
measure head_frozen 40 head.py --device cuda --dtype bfloat16 --hidden 4096 --rows 32768 --frozen --heads recompute one-pass trl
for shape in ${SHAPES:-2b 8b}; do
    # decode.py reads a policy from a folder; weights are random
    if "$python" -c 'import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1]); import train; train.save(sys.argv[2], Path(sys.argv[3]), "cuda")' \
        "$here" "$shape" "$scratch/$shape" 2>"$out/build_$shape.log"; then
        measure "decode_$shape" 90 decode.py --device cuda --dtype bfloat16 --policy "$scratch/$shape" --turns 2
    else
        echo "decode_$shape: skipped, see $out/build_$shape.log"
    fi
    rm -rf "${scratch:?}/$shape"
    # all weights of 8B, their gradients and the copies a comparison keeps need more than one device at 8 prompts
    prompts=$([ "$shape" = 8b ] && echo 1 || echo 4)
    measure "train_$shape" 70 train.py --device cuda --shape "$shape" --image-tokens 1024 --tokens 256 --prompts "$prompts" --pairs 2
    measure "memory_$shape" 60 memory.py --device cuda --shape "$shape" --image-tokens 1024 --tokens 256 --group-size 8 --prompts "$prompts"
    # 8B fits as adapters and with recomputed activations, on both sides
    options=$([ "$shape" = 8b ] && echo "--lora --checkpointing --rows 8" || echo "--rows 4")
    # shellcheck disable=SC2086
    measure "step_$shape" 90 step_vs_trl.py --device cuda --shape "$shape" $options --case long_prompt --microbatches 8 --pairs 1
done

for name in "${names[@]}"; do
    printf '\n## %s\n\n' "$name"
    grep -E '^(\||skipped)' "$out/$name.txt"
done
