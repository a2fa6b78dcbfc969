"""Other spellings of one result, and results that only look like it."""

import pytest
from helpers.reward_cases import accuracy

from lit_g2rpo.rewards.rules.math import results_agree


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("\\boxed{60} cm", "60 cm"), ("$x=\\boxed{60}$ cm", "60"), ("60 {\\rm cm}", "60 cm"), ("{1 \\over 2}", "0.5"),
        ("1 \\over 2", "0.5"), ("6.02{\\times}10^{23}", "6.02e23"), ("12{:}30 \\text{ p.m.}", "12:30 PM"),
        ("3 pm", "3:00 PM"), ("3 p.m.", "3 PM"), ("x_{\\rm max}", "x_{\\text{max}}"), ("3=x", "x=3"),
        ("H2O", "H_2O"), ("C6H12O6", "C_6H_{12}O_6"), ("\\text{CO}_2", "CO2"), ("{2,1}", "\\{1,2\\}"),
        ("10 cm to 20 cm", "10-20 cm"), ("10\\%-20\\%", "10-20%"), ("0.1 m - 20 cm", "10-20 cm"), ("$5-10", "$5-$10"),
        ("10 (cm)", "0.1 m"), ("10 (cm^2)", "10 cm^2"), ("10\\,[\\text{cm}]", "10 cm"),
        ("\\begin{pmatrix}1\\\\2\\end{pmatrix}", "\\frac12\\begin{pmatrix}2\\\\4\\end{pmatrix}"),
        ("-\\begin{pmatrix}1\\\\2\\end{pmatrix}", "\\begin{pmatrix}-1\\\\-2\\end{pmatrix}"),
    ],
)  # fmt: skip
def test_other_spellings_of_a_result(answer: str, gold: str) -> None:
    assert results_agree(answer, gold)


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("\\boxed{60} or 61", "60"), ("not \\boxed{60}", "60"), ("6\\boxed{0}", "60"), ("\\boxed{6}0", "60"),
        ("\\boxed{60} \\boxed{61}", "60"), ("\\boxed{60} million", "60"), ("3 am", "3 pm"), ("15 pm", "3 pm"),
        ("4 = x", "x=3"), ("{1,2}", "(1,2)"), ("1010_3", "1010_2"),
        ("10 m to 20 cm", "10-20 cm"), ("10 kg to 20 cm", "10-20 cm"), ("3+2m", "5m"),
        ("10 cm/", "10 cm"), ("10 cm per", "10 cm"), ("10 (kg)", "10 cm"),
        ("\\begin{vmatrix}391\\end{vmatrix}", "391"),
        ("2\\begin{pmatrix}1\\\\2\\end{pmatrix}", "\\begin{pmatrix}1\\\\2\\end{pmatrix}"),
    ],
)  # fmt: skip
def test_other_results(answer: str, gold: str) -> None:
    assert not results_agree(answer, gold)


@pytest.mark.parametrize("kind", ["counting", "regression"])
def test_markup_around_a_count_says_nothing(kind: str) -> None:
    assert [accuracy(kind, answer, "5") for answer in ("**5**", "$5$", "\\text{5}", "5\u3002")] == [1.0] * 4
    assert not any(accuracy(kind, answer, "5") for answer in ("**5** or 6", "5%", "5 5", "4+1", "-5"))
    assert accuracy("counting", "**Five**", "5") == 1.0
