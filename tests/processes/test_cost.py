"""What would run algebra to its limit is found before; what is only long is still compared."""

from collections.abc import Iterator

import pytest

from lit_g2rpo.rewards.rules.math import results_agree
from lit_g2rpo.rewards.running.pool import Pool, TimedOut, use_pool

TOO_LARGE = [
    "2^{3^{4^{5}}}", "9^9^9", "9**9**9", "10^{10^{10}}", "((9^{99})^{99})^{99}", "(2^{9999})^{9999}",
    "e^{e^{e^{e^{e}}}}", "\\pi^{\\pi^{\\pi^{\\pi}}}", "9.99^{9.99^{9.99^{9.99}}}", "0.5^{10^{10}}", "(a+b+c+d)^{50}",
    "(x+1)^{1000}",
    "(((x+1)^{9})^{9})^{9}", "(1+\\frac{1}{x})^{9999}", "(\\sqrt{2}+1)^{5000}", "(1+i)^{9999}", "(x+y+z)^{30}",
    "(a+b)(c+d)(e+f)(g+h)(i+j)(k+l)(m+n)(o+p)(q+r)(s+t)(u+v)(w+x)", "(9!)!", "3!!!!", "99999!", "\\frac{9999!}{9998!}",
    "\\binom{1000000}{500000}", "{1000000 \\choose 500000}", "\\binom{10^{6}}{10^{5}}", "\\binom{9!}{8!}",
    "\\prod_{i=1}^{100000} (x+i)", "\\sum_{i=1}^{10000} \\frac{1}{i}", "|".join("7" * 38), "|x|" * 12 + "+1",
    "\\vert 7" * 30, "{" * 12 + "x" + "}" * 12 + "+1",
    "\\frac{1}{a+b}+\\frac{1}{c+d}+\\frac{1}{e+f}+\\frac{1}{g+h}+\\frac{1}{j+k}+\\frac{1}{l+m}+\\frac{1}{n+o}"
    "+\\frac{1}{p+q}+\\frac{1}{r+s}", "\\frac{(a+b)^{10}}{(c+d)^{10}}+\\frac{(e+f)^{5}}{(g+h)^{5}}", "(a+b+c+d+e)^{8}",
    "\\prod_{i=1}^{50} (x+iy)(z-i)", "\\sum_{i=1}^{100}\\sum_{j=1}^{100} x^{i}y^{j}", "(x!)^{9^{9^{9}}}",
]  # fmt: skip
EXPANDED = "x^{12}+12x^{11}+66x^{10}+220x^9+495x^8+792x^7+924x^6+792x^5+495x^4+220x^3+66x^2+12x+1"
LONG_AND_RIGHT = [
    (EXPANDED, "(x+1)^{12}"), ("(1+x)^{1000}", "(x+1)^{1000}"), ("(2+y)(1+x)^{1000}", "(x+1)^{1000}(y+2)"),
    ("2^{100}-1", "1267650600228229401496703205375"), ("(c+d)(a+b)(g+h)(e+f)", "(a+b)(c+d)(e+f)(g+h)"),
    ("2^{-50}", "\\frac{1}{2^{50}}"), ("10!", "3628800"), ("\\binom{10}{5}", "252"), ("2^{3^{2}}", "512"),
    ("\\frac{2x}{x^2-1}", "\\frac{1}{x-1}+\\frac{1}{x+1}"), ("|1-x|", "|x-1|"), ("(x+y)(x-y)", "x^2-y^2"),
    ("((x+1)^2)^3", "(x+1)^6"), ("e^{2}e^{3}", "e^{5}"),
    ("\\sum_{i=1}^{30}\\sum_{j=1}^{30} ij", "216225"),
    ("(x-1)(x-2)(x-3)", "\\prod_{k=1}^{3} (x-k)"), ("\\frac{9!}{8!}", "9"),
    ("1.05^{360}", "(1+0.05)^{360}"),
]  # fmt: skip


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    pool = Pool(workers=1, seconds=20.0)  # far from what any of them takes
    yield pool
    pool.close()


@pytest.mark.parametrize("text", TOO_LARGE)
def test_what_is_too_large_is_refused_unread_or_uncomputed(pool: Pool, text: str) -> None:
    use_pool(pool)
    for answer, gold in ((text, "x+1"), ("x+1", text)):
        with pytest.raises(TimedOut, match="too large"):
            results_agree(answer, gold, final_form=False)
    assert pool.restarts == 0


@pytest.mark.parametrize(("answer", "gold"), LONG_AND_RIGHT)
def test_what_is_only_long_is_compared(pool: Pool, answer: str, gold: str) -> None:
    use_pool(pool)
    assert results_agree(answer, gold, final_form=False)
    assert pool.restarts == 0
