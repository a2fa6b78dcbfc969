"""The reader of mathematical results: numbers, units, words behind them, and what is no result."""

from decimal import Decimal
from fractions import Fraction

import pytest
import scipy.constants
from helpers.reward_cases import accuracy
from hypothesis import given
from hypothesis import strategies as st

from lit_g2rpo.rewards.answers.final_form import is_copied, operators
from lit_g2rpo.rewards.answers.notation import compact, normal_form
from lit_g2rpo.rewards.answers.results import result
from lit_g2rpo.rewards.answers.units import NO_UNIT, unit
from lit_g2rpo.rewards.rules.math import results_agree

MANTISSAS = st.decimals(-999, 999, places=3).filter(lambda value: value != 0)
POWERS = st.integers(-40, 40)


def spellings(mantissa: object, power: int) -> list[str]:
    raised = str(power).translate(
        str.maketrans("0123456789-", "\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079\u207b")
    )
    return [
        f"{mantissa}e{power}", f"{mantissa}E{power:+d}", f"{mantissa} \\times 10^{{{power}}}",
        f"{mantissa}\\cdot10^{{{power}}}",
        f"{mantissa}\u00d710{raised}", f"{mantissa} * 10^({power})", f"{mantissa} x 10^{power}",
        f"${mantissa}\\,\\times\\,10^{{{power}}}$",
        f"{Decimal(str(mantissa)).scaleb(power):f}", f"\\({mantissa} \u00b7 10^{{{power}}}\\)",
    ]  # fmt: skip


@given(MANTISSAS, POWERS, st.data())
def test_every_spelling_of_a_number_is_the_same_number(mantissa: object, power: int, data: st.DataObject) -> None:
    answer, gold = (data.draw(st.sampled_from(spellings(mantissa, power))) for _ in "ab")
    assert results_agree(answer, gold)
    assert accuracy("scientific", answer, gold) == 1.0


@given(MANTISSAS, POWERS, MANTISSAS, POWERS, st.data())
def test_other_numbers_are_other_numbers(a: object, p: int, b: object, q: int, data: st.DataObject) -> None:
    answer, gold = (Fraction(str(number)) * Fraction(10) ** power for number, power in ((a, p), (b, q)))
    texts = data.draw(st.sampled_from(spellings(a, p))), data.draw(st.sampled_from(spellings(b, q)))
    assert results_agree(*texts) == (answer == gold)
    if abs(answer - gold) > abs(gold) / 50:
        assert accuracy("scientific", *texts) == 0.0


@given(st.sampled_from(["math", "scientific", "numerical"]), MANTISSAS, POWERS)
def test_sign_and_exponent_count(kind: str, mantissa: object, power: int) -> None:
    gold = f"{mantissa} \\times 10^{{{power}}}"
    assert accuracy(kind, f"{mantissa}e{power}", gold) == 1.0
    assert accuracy(kind, f"{-Decimal(str(mantissa)) * 1000:.0f}e{power - 3}", gold) == 0.0
    assert accuracy(kind, f"{mantissa}e{power + 1}", gold) == 0.0


SCALES = {"hundred": 100, "k": 1000, "thousand": 1000, "lakh": 10**5, "million": 10**6, "crore": 10**7, "bn": 10**9,
          "billion": 10**9, "trillion": 10**12, "dozen": 12, "tenths": Fraction(1, 10), "thirds": Fraction(1, 3),
          "halves": Fraction(1, 2), "hundredths": Fraction(1, 100), "quarters": Fraction(1, 4)}  # fmt: skip


@given(st.integers(1, 10**6), st.sampled_from(sorted(SCALES)), st.sampled_from(["{} {}", "{}\\text{{ {}}}", "${}$ {}"]))
def test_scale_words_scale(value: int, word: str, style: str) -> None:
    text, scaled = style.format(value, word), value * Fraction(SCALES[word])
    assert not results_agree(text, str(value))
    assert results_agree(text, f"\\frac{{{scaled.numerator}}}{{{scaled.denominator}}}" if scaled % 1 else str(scaled))


MEASURED = [
    ("inch", "m", scipy.constants.inch), ("ft", "m", scipy.constants.foot), ("yards", "m", scipy.constants.yard),
    ("mile", "m", scipy.constants.mile), ("lb", "kg", scipy.constants.pound), ("oz", "kg", scipy.constants.ounce),
    ("min", "s", 60), ("hours", "s", 3600), ("days", "s", 86400), ("weeks", "s", 604800), ("L", "m^3", 1e-3),
    ("gallons", "m^3", scipy.constants.gallon), ("acres", "m^2", scipy.constants.acre), ("eV", "J", scipy.constants.eV),
    ("hectares", "m^2", scipy.constants.hectare), ("km/h", "m/s", scipy.constants.kmh), ("mph",
    "m/s", scipy.constants.mph),
    ("atm", "Pa", scipy.constants.atm), ("bar", "Pa", scipy.constants.bar), ("cal", "J", scipy.constants.calorie),
    ("kWh", "J", 3.6e6), ("mm", "m", 1e-3), ("sq. cm", "m^2", 1e-4), ("cubic feet", "m^3", scipy.constants.foot**3),
    ("g/cm^3", "kg/m^3", 1000), ("N", "kg m s^{-2}", 1), ("\\mu m", "m", 1e-6), ("tonnes", "kg", 1000), ("ppm",
    "%", 1e-4),
    ("cents", "dollars", 0.01), ("years", "months", 12), ("\u5343\u7c73", "m", 1000), ("\u5e73\u65b9\u5398\u7c73",
    "m^2", 1e-4),
]  # fmt: skip


@pytest.mark.parametrize(("name", "base", "size"), MEASURED)
def test_units_have_their_size(name: str, base: str, size: float) -> None:
    one, other = unit(normal_form(name)), unit(normal_form(base))
    assert one is not None
    assert other is not None
    assert one.dimension == other.dimension
    assert float(one.size / other.size) == pytest.approx(size, rel=1e-12)


@pytest.mark.parametrize(
    "text",
    ["wrong", "or 8", "cm (approx)", "apples", "cm or", "not cm", "sq", "^{2}", "per", "cm^{99}", "x", "7", "\\frac",
    "%%a", "c" * 99],
)  # fmt: skip
def test_what_is_no_unit(text: str) -> None:
    assert unit(text) in (None, NO_UNIT) if text == "per" else unit(text) is None


@pytest.mark.parametrize(
    "text",
    ["", " ", "$$", "\\frac{1", "((7", "7}", "The answer is 4.", "#### 12", "B. 12", "B) 12", "=7", "7=", "7==7",
    "\\boxed{7}\\boxed{8}",
     "x" * 600, "I think it is 12 or so"],
)  # fmt: skip
def test_what_is_no_result(text: str) -> None:
    assert result(text) is None


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("7", "one"), ("7 cm", "one"), ("x=7", "one"), ("x^2+1", "one"), ("\\text{yes}", "words"), ("no solution",
        "words"),
        ("2-3", "range"), ("2 to 3 cm", "range"), ("12:30 PM", "time"), ("(1,2)", "list"), ("\\{1,2\\}", "list"),
        ("1,2", "list"), ("[0,1)", "list"), ("7 or 8", "list"), ("\\begin{pmatrix}1&2\\end{pmatrix}", "matrix"),
        ("x>3", "equation"), ("A \\rightarrow B", "equation"), ("5 apples", "one"), ("**7**", "one"), ("\\boxed{7}",
        "one"),
    ],
)  # fmt: skip
def test_what_a_result_is(text: str, kind: str) -> None:
    found = result(text)
    assert found is not None
    assert found.kind == kind
    assert found.either == (text == "7 or 8")


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("7", ""), ("\\frac{3}{4}", ""), ("3\\frac12", ""), ("6.63 \\times 10^{-34}", ""), ("48\\pi", ""), ("x^2+2x+1",
        ""),
        ("(2b+3)(5+2y)", ""), ("[0,1)", ""), ("12+12", "sum of numbers"), ("17 \\times 23", "product of numbers"),
        ("3(4)", "product of numbers"), ("\\frac{48}{2}", "quotient of numbers"), ("2^{10}", "power"), ("5!",
        "factorial"),
        ("\\int_0^3 x^2 dx", "integral"), ("\\gcd(12,18)", "gcd"), ("\\log_2 8", "logarithm"),
        ("\\lfloor 7.9 \\rfloor", "floor"),
        ("\\sum_{k=1}^3 k", "series"), ("\\binom52", "binomial"), ("|-7|", "abs"), ("\\sqrt{49}", "root"), ("2\\sqrt2",
        "root"),
        ("\\frac{d}{dx}x^2", "derivative"), ("7 \\bmod 3", "product of numbers,remainder"), ("(1,2)+(3,4)",
        "sum of lists"),
        ("2\\begin{pmatrix}1&2\\end{pmatrix}", "product of lists"), ("(1+i)(2-i)",
        "product of numbers,sum of constants"),
        ("\\sin 60^\\circ", "trigonometric function"), ("1+\\sqrt3", "root,sum of constants"), ("sqrt(49)", "root"),
    ],
)  # fmt: skip
def test_operators(text: str, kinds: str) -> None:
    assert sorted(operators(compact(normal_form(text)))) == [kind for kind in kinds.split(",") if kind]


def test_a_copy_of_the_question_in_any_order() -> None:
    question = "Expand $(x+1)(x+2)$ and give $y = 3x$ too."
    for answer in ("(x+1)(x+2)", "(x+2)(x+1)", "(2+x) \\cdot (x+1)", "3x", "y = 3x"):
        assert is_copied(compact(normal_form(answer)), "x^{2}+3x+2", question)
    for answer in ("x^2+3x+2", "(x+1)(x+3)", "(x+1)"):
        assert not is_copied(compact(normal_form(answer)), "2+3x+x^{2}", question)
    assert not is_copied("0.5", "\\frac{1}{2}", "With $p = 0.5$ find $q$.")
    assert is_copied("\\frac{12}{16}", "\\frac{3}{4}", "Simplify $\\frac{12}{16}$.")


COUNTED = "How many red apples are in the basket?"


@pytest.mark.parametrize(
    ("answer", "right"),
    [("5 apples", 1), ("5 apple", 1), ("5 red apples", 1), ("5 pears", 0), ("5 not apples", 0), ("5 wrong", 0),
    ("6 apples", 0)],
)  # fmt: skip
def test_what_the_question_counts_may_stand_behind_its_number(answer: str, right: int) -> None:
    assert results_agree(answer, "5", question=COUNTED) == right


ONE_QUANTITY = [
    ("200 minutes", "3 hours 20 minutes"), ("3 h 20 min", "3 hours and 20 minutes"), ("5 ft 3 in", "63 inches"),
    ("1.5 h", "1 h 30 min"), ("5 m 30 cm", "5.3 m"), ("7", "3+4=7"), ("[2,5)", "2 \\le x < 5"),
    ("2 < x \\le 5", "(2,5]"),
    ("5 > x > 2", "(2,5)"), ("\\frac12 < x < 3", "(0.5,3)"),
]  # fmt: skip
ANOTHER = [
    ("3 hours 2 minutes", "3 hours 20 minutes"), ("20 minutes 3 hours", "200 min"), ("3 hours 20 km", "200 min"),
    ("8", "3+4=7"), ("3+4", "3+4=7"), ("7", "2x-3y=7"), ("2 < x < 5", "[2,5)"), ("2 < x < 6", "(2,5)"),
    ("2 < x < 5", "\\{2,5\\}"), ("\\{2,5\\}", "2 < x < 5"), ("2,5", "2<x<5"),
]  # fmt: skip


@pytest.mark.parametrize(("answer", "gold"), ONE_QUANTITY)
def test_parts_chains_and_bounds_are_one_result(answer: str, gold: str) -> None:
    assert results_agree(answer, gold)


@pytest.mark.parametrize(("answer", "gold"), ANOTHER)
def test_parts_chains_and_bounds_of_another_result(answer: str, gold: str) -> None:
    assert not results_agree(answer, gold)
