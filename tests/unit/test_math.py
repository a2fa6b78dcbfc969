"""Equality of mathematical results that needs no algebra."""

import math
import re
import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_g2rpo.rewards.answers.arithmetic import arithmetic
from lit_g2rpo.rewards.answers.final_form import is_copied, is_stated, operators
from lit_g2rpo.rewards.answers.notation import is_balanced, is_explosive, is_words, normal_form
from lit_g2rpo.rewards.answers.results import result
from lit_g2rpo.rewards.answers.units import unit
from lit_g2rpo.rewards.rules import math as maths
from lit_g2rpo.rewards.rules.math import TimedOut, results_agree
from lit_g2rpo.rewards.running.pool import Pool


@pytest.fixture
def no_algebra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail a test that would start a process."""

    def refuse() -> Pool:
        raise AssertionError("algebra was asked for")

    monkeypatch.setattr(maths, "current_pool", refuse)


NUMBERS_AGREE = [
    ("24", "24"), ("24.0", "24"), ("x=24", "24"), ("24", "x = 24"), ("12+12=24", "24"), ("24 cm", "24"),
    ("24", "24 cm"), ("24 centimeters", "24\\text{ cm}"), ("10 m^2", "10\\text{ m}^2"), ("5 apples", "5 apples"), ("5",
    "5 apples"),
    ("30", "30^\\circ"), ("30\u00b0", "30 degrees"), ("5 Minutes", "5 min."), ("\\$10", "10"), ("$10", "10"),
    ("\uff12\uff14", "24"), ("\u22123", "-3"), ("\u00bd", "0.5"), ("1e3", "1000"), ("3 1/2", "3.5"), ("-3 1/2", "-3.5"),
    ("50\\%", "50 %"), ("\\textbf{7}", "7"), ("\\boxed{7}", "7"), ("0.3333333", "1/3"), ("-\\frac12", "-0.5"),
    ("2\u200b4", "24"), ("(B)", "B"), ("Yes.", "yes"), ("east - west", "East-West"),
]  # fmt: skip
UNFINISHED = [
    ("12+12", "24"), ("2 \\times (3+9)", "24"), ("\\frac{48}{2}", "24"), ("1/2 + 1/3", "\\frac{5}{6}"), ("4!", "24"),
    ("2^{10}", "1024"), ("17 \\times 23", "391"), ("25-1", "24"), ("2(12)", "24"), ("23+1", "24"), ("1/2-1/3", "1/6"),
]  # fmt: skip
NUMBERS_DIFFER = [
    ("25", "24"), ("24a", "24"), ("5 apples", "5"), ("7 wrong", "7"), ("5m", "5"), ("2 4", "24"), ("seven", "7"),
    ("1 2 3 4 5 6 7", "7"), ("7, 8, 9", "7"),
    ("7 or 8", "7"), ("8. No wait, 7", "7"), ("6=7", "7"), ("=7", "7"), ("7=", "7"), ("12+13=24", "24"), ("y=5", "x=5"),
    ("on", "no"),
    ("listen", "silent"), ("BA", "AB"), ("b", "B"), ("12", "12%"), ("12%", "12"), ("0.5", "50%"), ("10 m", "10 cm"),
    ("10 m", "10 m^2"), ("5 minute", "5 hour"), ("7 million", "7"), ("7", "7 million"), ("5 dogs", "5 cats"),
    ("0.333", "1/3"), ("1/0", "1"), ("5}\\boxed{6", "6"), ("5}\\boxed{6", "5"), ("\\boxed{7}\\boxed{8}", "7"),
    ("", "7"), ("nan", "7"), ("1_000", "1000"), ("\u0667", "7"), ("x2", "2"), ("((((7", "7"),
    ("(" * 40 + "7" + ")" * 40, "7"),
]  # fmt: skip


@pytest.mark.parametrize(("answer", "gold"), NUMBERS_AGREE)
def test_numbers_and_words_that_agree_need_no_process(answer: str, gold: str, no_algebra: None) -> None:
    assert results_agree(answer, gold)


@pytest.mark.parametrize(("answer", "gold"), NUMBERS_DIFFER)
def test_numbers_and_words_that_differ_need_no_process(answer: str, gold: str, no_algebra: None) -> None:
    assert not results_agree(answer, gold)


@pytest.mark.parametrize(("answer", "gold"), UNFINISHED)
def test_a_computation_is_no_answer_unless_a_rule_takes_it(answer: str, gold: str, no_algebra: None) -> None:
    assert not results_agree(answer, gold)
    assert results_agree(answer, gold, final_form=False)
    assert results_agree(f"{answer}={gold}", gold)


@pytest.mark.parametrize(
    "answer",
    ["9**9**9", "9^{9^{9}}", "99999999!", "2**(10**9)", "(1+x)**99999", "((9!)!)!", "1e5^100000", "x^{9999999}"],
)
def test_what_is_too_large_is_refused_at_once(answer: str, no_algebra: None) -> None:
    start = time.process_time()
    with pytest.raises(TimedOut):
        results_agree(answer, "\\frac{x}{2}")
    assert time.process_time() - start < 0.5


def test_small_powers_are_not_refused() -> None:
    for text in ("2^{10}", "x^{999}", "2^{3^2}", "20!", "x^{2}y^{3}", "10^{-12}"):
        assert not is_explosive(text)


HOSTILE = [
    " " * 500, "(" * 500, ")" * 500, "\\frac{" * 80, "{" * 255 + "}" * 255, "$" * 500, "\\boxed{" * 70, "1/" * 250,
    "-" * 500, "1," * 250, "^" * 500, "=" * 500, "x=" * 250, "9" * 500, "\\text{a" * 70, "m" * 500, "!" * 500, "\x00",
    "\ud800", "a\u0301" * 250, "1 " * 250, ". " * 250, "sqrt(" * 100, "\\" * 500,
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_reading_takes_no_time(text: str) -> None:
    start = time.process_time()
    form = normal_form(text)
    (is_words(form), is_balanced(form), is_explosive(form), operators(form), result(text), unit(form))
    is_copied(form, "x+1", text)
    is_stated(form, text * 9)
    assert time.process_time() - start < 0.5


@given(st.text(max_size=60).filter(lambda text: normal_form(text)))
def test_everything_agrees_with_itself(text: str) -> None:
    assert results_agree(text, text)


def _bracketed(parts: tuple[str, str, str]) -> str:
    left, operator, right = parts
    return f"({left}{operator}{right})" if len(left) % 2 else f"{left} {operator} ({right})"


TERMS = st.recursive(
    st.integers(0, 999).map(str), lambda t: st.tuples(t, st.sampled_from("+-*/"), t).map(_bracketed), max_leaves=12
)


@given(TERMS)
def test_arithmetic_is_that_of_fractions(term: str) -> None:
    try:
        # the operators of Python's own rational numbers are the judge
        expected = eval(re.sub(r"\d+", r"Fraction(\g<0>)", term), {"Fraction": Fraction})
    except ZeroDivisionError:
        expected = None
    assert arithmetic(term) == expected


@pytest.mark.parametrize("term", ["", "(", "1+", "*2", "1 2", "2x", "1/0", "(" * 20 + "1" + ")" * 20, "1+" * 250])
def test_what_is_no_arithmetic(term: str) -> None:
    assert arithmetic(term) is None


@given(st.fractions(max_denominator=999).filter(lambda f: f.denominator > 1), st.integers(7, 12))
def test_a_fraction_agrees_with_its_decimal(fraction: Fraction, digits: int) -> None:
    decimal = f"{float(fraction):.{digits}f}"
    error = abs(Fraction(decimal) - fraction) / abs(fraction)
    assert results_agree(decimal, f"\\frac{{{fraction.numerator}}}{{{fraction.denominator}}}") == (
        error <= Fraction(1, 10**6)
    )


def test_a_result_of_two_lengths() -> None:
    assert math.isfinite(maths.MAX_RESULT_CHARACTERS)
    assert not results_agree("7" * 600, "7" * 600)
