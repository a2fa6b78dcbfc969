#!/usr/bin/env bash
# What docs/hardware.md wants to know of a GPU, in one go: the default run, and single-GPU, ZeRO-2 and ZeRO-3 runs of a
# 2B shape with random weights; agreement of engine and trainer in bfloat16, peak memory. Table last; JSON and logs in
# $OUT or ./out.
#   bash benchmarks/device_hardware.sh
#   SHAPE=tiny ROLLOUTS=2 bash benchmarks/device_hardware.sh   the same code on a processor, as a test of the script
# shellcheck source=benchmarks/device.sh
source "$(dirname "${BASH_SOURCE[0]}")/device.sh"

rows="default gpu zero2 zero3"
# DeepSpeed's strategies are for GPUs; tests/slow/test_sharded.py has them on processors
[ "$device" = cuda ] || rows="default cpu"

"$python" "$here/hardware.py" --build "${SHAPE:-2b}" --policy "$scratch/policy" >"$out/build.log" 2>&1 || { tail -1 "$out/build.log"; exit 1; }
for row in $rows; do
    start=$SECONDS
    rm -f "$out/$row.json"
    timeout 900 "$python" "$here/hardware.py" --row "$row" --policy "$scratch/policy" --scratch "$scratch/$row" \
        ${ROLLOUTS:+--rollouts "$ROLLOUTS"} --json "$out/$row.json" >"$out/$row.log" 2>&1
    echo "$row: exit status $?, $((SECONDS - start)) s, log in $out/$row.log"
done
"$python" "$here/hardware.py" --table "$out" | tee "$out/table.md"
