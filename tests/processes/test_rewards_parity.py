"""The style of the released reward: its formulas written once more, and the figures measured on its sample rows."""

import json
import math
import random
from collections import defaultdict
from fractions import Fraction
from typing import Any

import pytest
import torch
from helpers.paths import RELEASED
from helpers.reward_cases import GOLD, accuracy, sample, wrapped

from lit_g2rpo.rewards import RewardConfig, score
from lit_g2rpo.rewards.answers.parse import unwrap
from lit_g2rpo.rewards.rules.parity import rounded_numbers_agree, single_precision_accuracy, word_accuracy

CONFIG = RewardConfig(style="onethinker")

needs_rows = pytest.mark.skipif(not RELEASED.exists(), reason="the released sample is not on this machine")


def released_rows() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(RELEASED.read_text())
    assert len(rows) == 60
    return rows


def word_edits(a: list[str], b: list[str]) -> int:
    row = list(range(len(b) + 1))
    for i, left in enumerate(a, 1):
        above, row[0] = row[0], i
        for j, right in enumerate(b, 1):
            above, row[j] = row[j], min(above + (left != right), row[j] + 1, row[j - 1] + 1)
    return row[-1]


def relative_accuracy(answer: float, gold: float) -> float:
    a, g = torch.tensor(answer), torch.tensor(gold)
    return float(((a - g).abs() / (g.abs() + 1e-8) < 1 - torch.arange(0.5, 0.975, 0.05)).float().mean())


def overlap(a: list[float], b: list[float]) -> float:
    sides = [max(0.0, min(a[k + 2], b[k + 2]) - max(a[k], b[k])) for k in (0, 1)]
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return math.prod(sides) / (sum(areas) - math.prod(sides))


def expected(kind: str, answer: str, gold: str) -> float:
    """Accuracy by the released formulas, for answers of valid form."""
    if kind == "multiple choice":
        return float(answer.upper() == gold)
    if kind == "numerical":
        return float(round(float(answer), 2) == round(float(gold), 2))
    if kind == "regression":
        return relative_accuracy(float(answer), float(gold))
    if kind == "OCR":
        return max(0.0, 1 - word_edits(answer.split(), gold.split()) / len(gold.split()))
    return overlap(json.loads(answer)["boxes"], json.loads(gold)["boxes"])


def mutants(kind: str, gold: str, rng: random.Random) -> list[str]:
    if kind == "multiple choice":
        return list("ABCDEabcd")
    if kind in ("numerical", "regression"):
        errors = [0.001, 0.004, 0.006, 0.05, 0.051, 0.099, 0.1, 0.15, 0.3, 0.45, 0.5, 1.0]
        return [repr(float(gold) * (1 + e)) for e in errors] + [repr(float(gold) - e) for e in errors]
    if kind == "OCR":
        words, found = gold.split(), []
        for _ in range(10):
            kept = [word for word in words if rng.random() < 0.8] or ["none"]
            kept.insert(rng.randrange(len(kept) + 1), "extra")
            found.append(" ".join(kept))
        return [*found, gold.upper(), gold + " " + gold]
    box = json.loads(gold)["boxes"]
    moved = [[min(1000, max(0, edge + rng.randint(-150, 150))) for edge in box] for _ in range(20)]
    return [json.dumps({"boxes": b}) for b in [*moved, [0, 0, 1000, 1000]] if b[0] < b[2] and b[1] < b[3]]


@needs_rows
def test_gold_answers_earn_everything() -> None:
    for row in released_rows():
        scored = score(wrapped(unwrap(row["answer"])), row, CONFIG)
        assert (scored.accuracy, scored.format, scored.structure, scored.total) == (1, 1, 0.5, pytest.approx(1.5)), row


@needs_rows
def test_mutated_answers_earn_what_the_formulas_say() -> None:
    rng, cases = random.Random(0), 0
    for row in released_rows():
        kind, gold = row["problem_type"], unwrap(row["answer"])
        if kind == "math":
            continue
        for answer in mutants(kind, gold, rng):
            value = expected(kind, answer, gold)
            right = score(wrapped(answer), row, CONFIG)
            assert right.accuracy == pytest.approx(value, abs=1e-6), (kind, gold, answer)
            assert right.total == pytest.approx(0.9 * value + 0.1 + 0.5, abs=1e-6)
            assert score(f"<answer>{answer}</answer>", row, CONFIG).total == pytest.approx(0.9 * value, abs=1e-6)
            cases += 1
    assert cases > 700


FLOORS = {
    ("A", "0", "[0, 0, 1000, 1000]"): {
        "spatial_grounding": 0.23, "spatial_reasoning": 0.20, "general_vqa_science_stem": 0.10, "chart_figure_qa": 0.30,
        "math_reasoning": 0.0, "ocr": 0.0,
    },
    ("B", "1", "[250, 250, 750, 750]"): {
        "spatial_grounding": 0.21, "spatial_reasoning": 0.40, "general_vqa_science_stem": 0.50, "chart_figure_qa": 0.10,
        "math_reasoning": 0.10, "ocr": 0.0,
    },
}  # fmt: skip
"""Mean accuracy of two constant policies, measured with the released reward."""


@needs_rows
@pytest.mark.parametrize("policy", FLOORS)
def test_constant_policies_earn_the_measured_floors(policy: tuple[str, str, str]) -> None:
    letter, number, box = policy
    for config in (CONFIG, RewardConfig()):
        found = defaultdict(list)
        for row in released_rows():
            answer = {"multiple choice": letter, "spatial grounding": f'{{"boxes": {box}}}'}.get(
                row["problem_type"], number
            )
            found[row["task_type"]].append(score(wrapped(answer), row, config).accuracy)
        for task, floor in FLOORS[policy].items():
            assert sum(found[task]) / len(found[task]) == pytest.approx(floor, abs=0.006), task


@needs_rows
def test_other_constant_policies() -> None:
    for row in released_rows():
        gold = unwrap(row["answer"])
        assert score(gold, row, CONFIG).total == 0
        assert score(wrapped("<answer>" + gold), row, CONFIG).format == 0
        wrong = score(wrapped("nothing of the kind"), row, CONFIG)
        structured = row["problem_type"] == "spatial grounding"
        assert (wrong.format, wrong.structure) == (1, 0 if structured else 0.5)
        assert wrong.accuracy < 0.1
        assert score(wrapped("nothing of the kind"), row).structure == 0


def test_single_precision_accuracy_is_that_of_torch() -> None:
    rng = random.Random(1)
    for _ in range(2000):
        gold = round(rng.uniform(-20, 20), rng.randint(0, 3))
        answer = round(gold * (1 + rng.choice([-0.5, -0.25, -0.1, 0.05, 0.1, 0.15, 0.2, 0.3, 0.45])), rng.randint(0, 4))
        ours = single_precision_accuracy(Fraction(str(answer)), Fraction(str(gold)))
        assert ours == pytest.approx(relative_accuracy(answer, gold)), (answer, gold)
    assert single_precision_accuracy(Fraction(11), Fraction(10)) == 0.9
    assert single_precision_accuracy(Fraction(0), Fraction(0)) == 1.0
    assert single_precision_accuracy(Fraction(1, 100), Fraction(0)) == 0.0
    for huge in (10**39, 10**300, 10**330):
        assert single_precision_accuracy(Fraction(huge), Fraction(1)) == 0.0
        assert single_precision_accuracy(Fraction(1), Fraction(huge)) == 0.0


@pytest.mark.parametrize(
    ("answer", "gold", "right"),
    [("0.004", "0.001", True), ("123456.78", "123456.79", False), ("3.004", "3", True), ("3.006", "3", False),
     ("2.675", "2.67", True), ("-0.001", "0", True), ("50", "49.999", True)],
)  # fmt: skip
def test_numbers_are_rounded(answer: str, gold: str, right: bool) -> None:
    assert rounded_numbers_agree(Fraction(answer), Fraction(gold)) == right
    assert accuracy("numerical", answer, gold, CONFIG) == right


def test_words_instead_of_characters() -> None:
    assert word_accuracy("the quick brown dog", "the quick brown fox") == 0.75
    assert word_accuracy("The quick", "the quick") == 0.5
    assert word_accuracy("a b c d e f", "a b") == 0.0
    assert word_accuracy("a / b", "a / b") == 1.0
    assert accuracy("OCR", "The quick brown fax", config=CONFIG) == 0.75
    jiwer = pytest.importorskip("jiwer")
    rng = random.Random(4)
    for _ in range(200):
        a, b = (" ".join(rng.choices("abcd", k=rng.randint(1, 9))) for _ in "ab")
        assert word_accuracy(a, b) == pytest.approx(max(0.0, 1 - jiwer.wer(b, a)))


@pytest.mark.parametrize(
    ("kind", "answer", "structure"),
    [
        ("multiple choice", "none", 0.5), ("multiple choice", "A" * 600, 0.5),
        ("math", "none", 0.5), ("numerical", "none", 0.5), ("document", "none", 0.5),
        ("spatial grounding", '{"boxes": [0, 0, 9, 9]}', 0.5), ("spatial grounding", '{"boxes": [9, 9, 0, 0]}', 0),
        ("temporal grounding", '{"time": [1, 2]}', 0.5), ("temporal grounding", '{"time": [1]}', 0),
        ("tracking", '{"boxes": {"1": [0, 0, 9, 9]}}', 0.375), ("tracking", '{"boxes": {"7": [0, 0, 9, 9]}}', 0.25),
        ("tracking", GOLD["tracking"], 0.5), ("tracking", "[]", 0),
        ("spatial-temporal grounding", '{"time": [1, 2], "boxes": {"9": [0, 0, 9, 9]}}', 0.375),
        ("spatial-temporal grounding", '{"boxes": {"9": [0, 0, 9, 9]}}', 0),
        ("segmentation", GOLD["segmentation"], 0.5),
        ("segmentation", '{"boxes": [0, 0, 9, 9]}', 0), ("GUI grounding", "[1, 2]", 0.5), ("GUI grounding", "there", 0),
    ],
)  # fmt: skip
def test_structure(kind: str, answer: str, structure: float) -> None:
    assert score(wrapped(answer), sample(kind), CONFIG).structure == structure
    assert score(f"<answer>{answer}</answer>", sample(kind), CONFIG).structure == 0
    assert score(wrapped(answer), sample(kind)).structure == 0
