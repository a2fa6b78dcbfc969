"""Gold answers of mathematics: which are values, which are names, and which nothing but their own text could meet."""

import pytest

from lit_g2rpo.rewards.rules import math_gold as module
from lit_g2rpo.rewards.rules.math_gold import math_gold
from lit_g2rpo.rewards.running.pool import Pool, TimedOut


@pytest.fixture(autouse=True)
def no_algebra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail a test that would start a process."""

    def refuse() -> Pool:
        raise AssertionError("algebra was asked for")

    monkeypatch.setattr(module, "current_pool", refuse)


VALUES = [
    "12", "-3.5", "1,234", "3 1/2", "\\frac12", "$$60$$", "40\\%", "\\$24.50", "60^\\circ", "5 apples", "12:30 PM",
    "$\\frac{\\sqrt{2}}{3}$", "\\frac{\\sqrt{3}\\pi}{2}", "2\\sqrt{3} cm", "x=\\frac{-b\\pm\\sqrt{b^2-4ac}}{2a}",
    "x = -3", "y=2x+1", "2x - 3y = 7", "(x+1)(x-2)", "(1,2)", "[0,1)", "\\{1,2\\}", "1,2,3", "7 and 8", "x=2 or x=-3",
    "x>3", "2<x<5", "x \\le 3", "\\pm 3", "10^{-5}", "1.5 \\times 10^3", "\u20ac5", "3\u4e2a", "a_{n+1}=2a_n",
    "\\sqrt[3]{2}", "\\sin x", "|x-3|<2",
    "3 hours 20 minutes", "12 sq. units", "x\\to 3", "x<1 or x>3", "Area = 12",
    "3+4=7", "x=k\\pi, k\\in\\mathbb{Z}", "\\$5 million", "7 tenths", "2-3",
    "0.\\overline{3}", "\\{x | x>1\\}", "\\begin{cases} x=1 \\\\ y=2 \\end{cases}", "f(x)=x^2", "5:3",
]  # fmt: skip
NAMES = [
    "3rd quadrant", "blue", "yes", "No", "right triangle", "not enough information", "no solution",
    "does not exist", "Figure 2",
    "cannot be determined", "\\text{Evelyn}", "B", "(A)", "A, C", "II and III", "\u2460\u2462", "\\triangle ABC",
    "AB \\parallel CD", "H_2O", "2ab", "Alice and Bob", "Saturday, May 5", "\u4e09\u89d2\u5f62",
]  # fmt: skip
NONE = [
    ("The answer is 4.", "has the word 'The' beside the result"), ("Answer: 7", "has the word 'Answer'"),
    ("the answer is four", "is a sentence"), ("There are four bars in the chart.", "is a sentence"),
    ("Result seven", "is a sentence"), ("7 or 8", "has the word 'or' beside the result; write {7, 8} for both"),
    ("7\\text{ or 8}", "has the word 'or'"), ("3, 4 or 5", "has the word 'or'"), ("7 (see figure)", "word 'see'"),
    ("7, because 3+4=7", "word 'because'"), ("about 7", "word 'about'"), ("4 (four)", "word 'four'"),
    ("Step 1: add. Step 2: 7", "word 'Step'"), ("\\frac{1}{", "do not close"), ("}{", "do not close"),
    ("2}", "do not close"), ("(3, -4", "do not close"), ("9^9^9^9", "is too large to compute"),
    ("N/A", "there is none"), ("?", "there is none"), ("NaN", "there is none"), ("", "there is none"),
    ("7" * 600, "has 600 characters"),
    ("B. 12", "names an option"), ("(B) 12", "names an option"), ("1.2.3", "cannot be read"),
    ("1 2 3", "cannot be read"), ("Option B", "names an option"), ("red or blue", "word 'or'"),
    ("Ans: 5", "word 'Ans'"), ("7 wrong", "word 'wrong'"), ("10 m (approx)", "word 'approx'"),
    ("It is 7", "word 'It'"),
    ("3+4=8", "has sides that are not equal"), ("7 \\vee 8", "has the word 'or'"),
    ("=5", "no mathematics that can be read"), ("x=", "no mathematics that can be read"),
    ('{"value": 2}', "word 'value'"),
]  # fmt: skip


@pytest.mark.parametrize("text", VALUES + NAMES)
def test_values_and_names_need_no_algebra(text: str) -> None:
    assert math_gold(text) is None


@pytest.mark.parametrize(("text", "reason"), NONE)
def test_what_is_no_value_says_why(text: str, reason: str) -> None:
    assert reason in (math_gold(text) or "")


@pytest.mark.parametrize("text", ["2+", "\\sqrt{}", "7..5", "7/", "\\frac{}{}", "x^", "\\int_0^1 x\\,dx", "()"])
def test_the_rest_is_left_to_algebra(text: str) -> None:
    with pytest.raises(AssertionError, match="algebra was asked for"):
        math_gold(text)


def test_what_takes_too_long_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Late:
        def reads(self, text: str) -> bool:
            raise TimedOut

    monkeypatch.setattr(module, "current_pool", Late)
    assert math_gold("\\int_0^1 x\\,dx") == "takes too long to read"
