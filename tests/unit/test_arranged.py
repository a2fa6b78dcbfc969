"""Copies of the question in another arrangement."""

import pytest

from lit_g2rpo.rewards.answers.arranged import arranged
from lit_g2rpo.rewards.answers.final_form import is_copied
from lit_g2rpo.rewards.answers.notation import normal_form
from lit_g2rpo.rewards.rules.math import results_agree


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("x^2-5x+6", "1(6-5x+x^2)"), ("x^2-5x+6", "(x^2-5x+6)/1"), ("x^2-5x+6", "xx-5x+6.0"),
        ("x^2-5x+6", "-(-x^2+5x-6)"), ("(x+1)^2", "(1+x)(x+1)+0"), ("(x-2)(x-3)", "(2-x)(3-x)"),
        ("\\frac{1}{2}", "1/2"), ("3e5", "3\\times 10^5"), ("2x=6", "6=2x"),
    ],
)  # fmt: skip
def test_arrangement_makes_no_other_formula(a: str, b: str) -> None:
    assert arranged(normal_form(a)) == arranged(normal_form(b))


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("x^2-5x+6", "(x-2)(x-3)"), ("17\\cdot 23", "391"), ("\\frac{12}{16}", "\\frac{3}{4}"), ("x+1", "x-1"),
        ("300000", "3\\times 10^5"), ("2\\frac12", "\\frac52"), ("3x+2x", "5x"), ("\\sqrt{8}", "2\\sqrt{2}"),
        ("0.375", "\\frac{3}{8}"), ("x^2y", "xy^2"), ("(x+1)x", "x+1"),
    ],
)  # fmt: skip
def test_computing_makes_another_formula(a: str, b: str) -> None:
    assert arranged(normal_form(a)) != arranged(normal_form(b))


def test_repeated_factors_are_a_power_only_where_they_are_collected() -> None:
    assert arranged("x^{2}x") == arranged("x^{3}")
    assert arranged("x^{2}x", collected=False) != arranged("x^{3}", collected=False)


@pytest.mark.parametrize(
    ("question", "gold", "copy", "right"),
    [
        ("Factor $x^2-5x+6$.", "(x-2)(x-3)", "1(x^2-5x+6)", "(3-x)(2-x)"),
        ("Expand $(x+1)^2$.", "x^2+2x+1", "(x+1)(x+1)", "1+2x+x^2"),
        ("Simplify $x^2\\cdot x$.", "x^3", "x\\cdot x^2", "x^{3}"),
        ("Write $0.375$ as a fraction.", "\\frac{3}{8}", "0.375", "6/16"),
        ("Write 3/8 as a decimal.", "0.375", "3/8", "0.3750"),
        ("Write $0.00045$ in scientific notation.", "4.5\\times 10^{-4}", "0.00045", "4.5e-4"),
        ("Write $2\\frac12$ as an improper fraction.", "\\frac{5}{2}", "2\\frac12", "5/2"),
        ("Let $p=\\frac12$ and $q=3$. Find the chance.", "0.5", "2-1.5", "\\frac12"),
    ],
)
def test_a_copy_is_no_answer_and_the_result_is_one(question: str, gold: str, copy: str, right: str) -> None:
    assert not is_copied(normal_form(right), normal_form(gold), question)
    if any(mark.isalpha() for mark in copy.replace("\\frac", "").replace("\\cdot", "")):
        assert is_copied(normal_form(copy), normal_form(gold), question)
    else:
        assert not results_agree(copy, gold, question=question)
        assert results_agree(right, gold, question=question)
