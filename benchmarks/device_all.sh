#!/usr/bin/env bash
# The goals for one GPU, all in one go: random weights of the 2B and the 8B shape, at most ten minutes for each shape.
# The goals beside what was found last; tables, JSON and logs of the parts in $OUT or ./out.
#   bash benchmarks/device_all.sh
#   SHAPE=2b MINUTES=15 bash benchmarks/device_all.sh   one of them, in other minutes
#   SHAPE=tiny bash benchmarks/device_all.sh            the same code with small sizes, as a test of the script
# shellcheck source=benchmarks/device.sh
source "$(dirname "${BASH_SOURCE[0]}")/device.sh"
export OMP_NUM_THREADS=1

shapes=${SHAPE:-2b 8b}
minutes=${MINUTES:-10}
# No part may take half of a shape's time.
limit=$((30 * minutes))
deadline=$((60 * minutes * $(wc -w <<<"$shapes")))

# measure NAME SCRIPT ARGUMENTS...: a part that fails or takes too long costs its own rows only
measure() {
    local name=$1 script=$2 start=$SECONDS seconds=$((deadline - SECONDS))
    shift 2
    rm -f "$out/$name.json"
    if [ "$seconds" -le 0 ]; then
        echo "$name: skipped, the time is over"
        return
    fi
    [ "$seconds" -lt "$limit" ] || seconds=$limit
    timeout "$seconds" "$python" "$here/$script" --device "$device" "$@" --json "$out/$name.json" \
        >"$out/$name.txt" 2>"$out/$name.log"
    echo "$name: exit status $?, $((SECONDS - start)) s of $seconds (124: over), table in $out/$name.txt"
}

if [ "$shapes" = tiny ]; then
    image=16 short=16 long=32 prompts=2 head=(--rows 64)
    case=trial longest=(--first 64 --last 300 --limit-gib 0.85)
else
    image=1024 short=256 long=1024 prompts=8 head=(--rows 32768 --hidden 4096 --dtype bfloat16)
    case=long_prompt longest=()
fi
measure ceilings ceilings.py
measure head_frozen head.py "${head[@]}" --heads one-pass trl --frozen
measure head head.py "${head[@]}" --heads one-pass trl
for shape in $shapes; do
    model=(--shape "$shape")
    measure "decode_$shape" decode.py "${model[@]}" --static --turns 1 \
        --case "$image" "$short" 0 --case "$image" $((2 * short)) $((short / 2))
    # weights, gradients and activations of 8B at one prompt fill a device
    measure "train_$shape" train.py "${model[@]}" --modes packed --image-tokens "$image" --tokens "$short" \
        --prompts "$([ "$shape" = 8b ] && echo 1 || echo 4)"
    # 8B learns as adapters; what does not fit otherwise recomputes activations, on both sides
    recompute=()
    if [ "$shape" = 8b ]; then
        model+=(--lora)
        recompute=(--checkpointing)
    fi
    measure "gaps_$shape" gaps.py "${model[@]}" "${recompute[@]}" --image-tokens "$image" --tokens "$short" \
        --prompts "$prompts" --microbatches "$prompts"
    measure "step_$shape" step_vs_trl.py "${model[@]}" "${recompute[@]}" --case "$case" --tokens "$short" --pairs 1 \
        --rows "$([ "$shape" = 2b ] && echo 4 || echo 8)" --microbatches "$prompts"
    # one group of 8 in a pass, as TRL's 8 rows
    measure "step_long_$shape" step_vs_trl.py "${model[@]}" --checkpointing --case "$case" --tokens "$long" --pairs 1 \
        --rows 8 --microbatches "$prompts"
    measure "longest_$shape" longest.py "${model[@]}" --image-tokens "$image" "${longest[@]}"
done

echo
# shellcheck disable=SC2086
"$python" "$here/device_table.py" "$out" --shapes $shapes | tee "$out/table.md"
