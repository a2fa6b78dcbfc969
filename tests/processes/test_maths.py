"""Mathematical results as people write them: what is paid and what is not, algebra included."""

import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.paths import CASES, HELPERS
from helpers.reward_cases import wrapped

from lit_g2rpo.rewards import RewardConfig, score
from lit_g2rpo.rewards.rules.math import results_agree

Pair = tuple[str, str, str, str, float]
"""Problem type, problem, gold, answer, right accuracy."""


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def own_pairs() -> Iterator[Pair]:
    for line in lines(HELPERS / "maths_pairs.jsonl"):
        for right, key in ((1.0, "right"), (0.0, "wrong")):
            answers = line[key]
            assert isinstance(answers, list)
            for answer in answers:
                yield "math", str(line.get("problem", "?")), str(line["gold"]), answer, right


def wrong(pairs: list[Pair], config: RewardConfig) -> list[Pair]:
    """The pairs that are not judged as they should be."""
    assert pairs
    return [
        pair
        for pair in pairs
        if score(wrapped(pair[3]), {"problem_type": pair[0], "problem": pair[1], "answer": pair[2]}, config).accuracy
        != pair[4]
    ]


def test_results_as_people_write_them() -> None:
    assert wrong(list(own_pairs()), RewardConfig()) == []


@pytest.mark.skipif(not CASES.exists(), reason="the shared cases are not on this machine")
def test_the_shared_cases() -> None:
    pairs: list[Pair] = []
    for name in ("math_must_be_0", "math_must_be_1", "math_copied_question"):
        for line in lines(CASES / "rewards" / f"{name}.jsonl"):
            row, right = line["row"], float(str(line.get("accuracy", 0)))
            assert isinstance(row, dict)
            answer = str(line["completion"]).rpartition("<answer>")[2].removesuffix("</answer>")
            pairs.append((row["problem_type"], row["problem"], row["answer"], answer, right))
    for line in lines(CASES / "rewards" / "maths_pairs.jsonl"):
        pairs.append((str(line["kind"]), "?", str(line["gold"]), str(line["answer"]), float(str(line["right"]))))
    assert wrong(pairs, RewardConfig()) == []


COMPUTATIONS = [
    ("\\int_0^3 x^2 dx", "9"), ("\\gcd(12,18)", "6"), ("\\lim_{x\\to0}\\frac{\\sin x}{x}", "1"), ("\\log_2 8", "3"),
    ("\\sin\\frac{\\pi}{6}", "\\frac{1}{2}"), ("\\lfloor 7.9 \\rfloor", "7"), ("\\sqrt{576}", "24"), ("10!", "3628800"),
    ("\\binom{5}{2}", "10"), ("\\sum_{k=1}^{4} k", "10"), ("(1+i)(2-i)", "3+i"), ("\\max(3,7)", "7"), ("5-3", "2"),
]  # fmt: skip


def test_computations_are_answers_only_to_a_rule_that_takes_them() -> None:
    for answer, gold in COMPUTATIONS:
        assert not results_agree(answer, gold), answer
        assert results_agree(answer, gold, final_form=False), answer
        row = {"problem_type": "math", "problem": f"Compute ${answer}$.", "answer": gold}
        assert score(wrapped(answer), row, RewardConfig(final_form=False)).accuracy == 1.0


Matrix = list[list[int]]


def written(rng: random.Random, matrix: Matrix) -> str:
    """Write a matrix in one of the ways that people do."""
    space, row_end = rng.choice(["", " ", "\\ "]), rng.choice(["\\\\", " \\\\ ", "\\\\ \n", "\\\\[2pt] "])
    rows = row_end.join(f"{space}&{space}".join(map(str, row)) for row in matrix)
    name = rng.choice(["pmatrix", "bmatrix", "array", "matrix", "Bmatrix", "smallmatrix"])
    columns = "{" + "c" * len(matrix[0]) + "}" if name == "array" else ""
    body = f"\\begin{{{name}}}{columns}{space}{rows}{space}\\end{{{name}}}"
    if name in ("array", "matrix", "smallmatrix"):
        body = rng.choice(["\\left({}\\right)", "\\left[ {} \\right]", "[{}]", "({})"]).replace("{}", body)
    return rng.choice(["{}", "${}$", "\\[{}\\]", "\\boxed{{}}", "A = {}"]).replace("{}", body)


def changed(rng: random.Random, matrix: Matrix) -> Matrix:
    """Permute rows or columns, transpose, turn a sign, change a number, or keep a matrix."""
    copy = [list(row) for row in matrix]
    kind = rng.randrange(6)
    if kind == 0:
        rng.shuffle(copy)
    elif kind == 1:
        copy = [list(row) for row in zip(*copy, strict=True)]
    elif kind == 2:
        row, column = rng.randrange(len(copy)), rng.randrange(len(copy[0]))
        copy[row][column] = -copy[row][column]
    elif kind == 3:
        copy[rng.randrange(len(copy))][0] += 1
    elif kind == 4:
        copy = [row[::-1] for row in copy]
    return copy


def test_matrices_agree_exactly_if_their_numbers_do() -> None:
    rng = random.Random(0)
    for _ in range(600):
        shape = rng.randint(1, 4), rng.randint(1, 4)
        gold = [[rng.randint(-3, 12) for _ in range(shape[1])] for _ in range(shape[0])]
        answer = changed(rng, gold)
        texts = written(rng, answer), written(rng, gold)
        assert results_agree(*texts) == (answer == gold), texts


def test_determinants_are_no_matrices() -> None:
    body = "1 & 2 \\\\ 3 & 4"
    matrix, determinant = (f"\\begin{{{name}}}{body}\\end{{{name}}}" for name in ("pmatrix", "vmatrix"))
    assert not results_agree(determinant, matrix)
    assert not results_agree(matrix, determinant)
    assert not results_agree(determinant, "-2")
    assert results_agree(determinant, "-2", final_form=False)
    assert results_agree(determinant, "\\left|\\begin{array}{cc}1&2\\\\3&4\\end{array}\\right|")
