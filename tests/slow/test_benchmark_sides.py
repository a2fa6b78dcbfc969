"""Both sides of the comparison with TRL do the same work."""

from pathlib import Path
from typing import Any

import pytest
import step_vs_trl
import turns


@pytest.mark.parametrize("work", [(), (("tower", True),), (("lora", True), ("kl", 0.04), ("updates", 2))])
def test_both_sides_do_the_same_work(tmp_path: Path, work: tuple[tuple[str, Any], ...]) -> None:
    pytest.importorskip("trl")
    rows = 4 // dict(work).get("updates", 1)
    case = step_vs_trl.Case(4, max_tokens=6, variable=True, prompts=2, group_size=2, work=work)
    sides, lengths, made = step_vs_trl.build(case, tmp_path, 3, [{"rows": rows}])
    steps = turns.measure(sides, 2, cuda=False)
    step_vs_trl.same_work(sides, lengths, 3, made.updates)
    peer = steps[f"rows={rows}"][0]["counters"]
    assert peer["images_preprocessed"] == 2 * 4  # every completion, twice
    assert peer["prefill_tokens"] == 4 * (32 + 4)
    assert peer["row_steps"] == 4 * (max(map(max, lengths.values())) - 1)
