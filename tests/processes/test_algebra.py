"""Equality by algebra, in real worker processes."""

import threading
from collections.abc import Iterator

import pytest
from helpers.reward_cases import accuracy, wrapped

from lit_g2rpo.errors import UserError
from lit_g2rpo.rewards import RewardConfig
from lit_g2rpo.rewards.rules.math import results_agree
from lit_g2rpo.rewards.rules.math_gold import math_gold
from lit_g2rpo.rewards.running import server
from lit_g2rpo.rewards.running.adapters import Batch
from lit_g2rpo.rewards.running.limits import Limits
from lit_g2rpo.rewards.running.pool import Pool, use_pool
from lit_g2rpo.rewards.running.scorer import Scorer

MATH = {"problem": "?", "problem_type": "math", "answer": "x+1"}


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    pool = Pool(workers=1, seconds=20.0)  # far from the time of a comparison even on a busy machine
    yield pool
    pool.close()


ALGEBRA_AGREES = [
    ("1+x", "x+1"), ("x^2+2x+1", "(x+1)^2"), ("\u221a2", "\\sqrt{2}"), ("sqrt(2)", "\\sqrt{2}"),
    ("\u221a10", "\\sqrt{10}"), ("\\sqrt{8}", "2\\sqrt{2}"), ("pi/2", "\\frac{\\pi}{2}"), ("x\u00b2", "x^2"),
    ("x**2", "x^2"), ("x^-1", "\\frac{1}{x}"), ("2*x", "2x"), ("x^10", "x^{10}"), ("x^(1/2)", "\\sqrt{x}"),
    ("2.5\u00d710^3", "2500"),
    ("\\{2,1\\}", "\\{1,2\\}"), ("[1, 2)", "[1,2)"),
    ("\\begin{bmatrix}1\\\\2\\end{bmatrix}", "\\begin{pmatrix}1\\\\2\\end{pmatrix}"),
    ("\\frac{\\sin x}{\\cos x}", "\\tan x"), ("y=1+2x", "y=2x+1"), ("\\frac{1}{\\sqrt{3}}", "\\frac{\\sqrt{3}}{3}"),
    ("(1+\\sqrt{2})x", "\\sqrt{3+2\\sqrt{2}}x"),
    ("x^2+2x+1.0", "(x+1)^2"), ("2x+iy", "iy+2x"),
    ("3.14159265", "\\pi"), ("f(2)=24", "24"), ("e^{-1}", "\\frac{1}{e}"), ("-3+2m", "2m-3"), ("\\sqrt{49}=7", "7"),
    ("\\sqrt{50} \\approx 7", "7"), ("\\sqrt{x}=7", "7"),
]  # fmt: skip
ALGEBRA_DIFFERS = [
    ("x+2", "x+1"), ("X+1", "x+1"), ("x^2-1", "(x+1)^2"), ("x^3", "x^2"), ("x2", "x\u00b2"), ("(2,1)", "(1,2)"),
    ("x=7,x=8", "7"), ("7 \\text{ or } 8", "7"),
    ("1,2,3", "1,2"), ("\\sqrt{4}", "7"), ("\\pi", "3.14"), ("y", "x+1-1"),
    ("\\omega", "\\Omega"), ("x_1", "X_1"), ("HO2", "H_2O"), ("h2o", "H_2O"), ("A12", "A_1"), ("10x-3", "7x"),
    ("\\sqrt{64}=7", "7"), ("\\log_2 8=7", "7"), ("\\sin 90^\\circ=7", "7"),
]  # fmt: skip


def test_algebra(pool: Pool) -> None:
    use_pool(pool)
    wrong = [pair for pair in ALGEBRA_AGREES if not results_agree(*pair)]
    wrong += [pair for pair in ALGEBRA_DIFFERS if results_agree(*pair)]
    assert not wrong
    assert pool.restarts == 0


def test_algebra_from_a_thread(pool: Pool) -> None:
    found: list[bool] = []

    def compare() -> None:
        use_pool(pool)
        found.extend([results_agree("1+x", "x+1"), results_agree("x+2", "x+1")])

    thread = threading.Thread(target=compare)
    thread.start()
    thread.join()
    assert found == [True, False]


def test_formulas_of_science_are_compared_too(pool: Pool) -> None:
    use_pool(pool)
    assert accuracy("scientific", "nacl", "NaCl2") == 0.0


def test_algebra_runs_in_processes_and_a_limit_is_counted_apart() -> None:
    one = Scorer(RewardConfig(), limits=Limits(workers=1, seconds=20.0))
    answers = ["1+x", "x+2", "9**9**9", "1+x"] * 8
    found = one.score(Batch([wrapped(a) for a in answers], [MATH] * 32, ["math"] * 32))
    assert [result.accuracy for result in found] == [1.0, 0.0, 0.0, 1.0] * 8
    assert [result.error for result in found] == [None, None, "timeout", None] * 8
    assert (one.timeouts, one.failures, one.restarts) == (8, 0, 0)
    one.close()
    assert not one._pool._running


def test_processes_that_cannot_start_stop_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "START", server.START.replace("main()", "missing()"))
    with pytest.raises(UserError, match="a process for mathematics does not start"):
        Scorer(RewardConfig()).score(Batch([wrapped("1+x")], [MATH], ["math"]))


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("\\int_0^1 x\\,dx", True), ("|x|", True), ("n!", True), ("x \\in \\mathbb{R}", True), ("\\emptyset", True),
        ("(-\\infty, 3] \\cup [5, \\infty)", True), ("\\begin{pmatrix} 1 & 2 \\end{pmatrix}", True),
        ("3\\pi \\text{ cm}^2", True), ("\\vec{a}+\\vec{b}", True), ("45^{\\circ}30'", True), ("\\binom{5}{2}", True),
        ("2+", False), ("\\sqrt{}", False), ("7..5", False), ("=5", False), ("7/", False), ("\\frac{}{}", False),
        ("x^", False), ("()", False),
    ],
)  # fmt: skip
def test_gold_that_algebra_must_read(text: str, right: bool, pool: Pool) -> None:
    use_pool(pool)
    assert (math_gold(text) is None) is right
