"""Which letter an answer names: markup does not count, words do, and case decides where a text matches exactly."""

import json

import pytest
from helpers.paths import CASES

from lit_g2rpo.rewards import score
from lit_g2rpo.rewards.answers.choice import choice

COLOURS = ["A. red", "B. green", "C. blue"]
MIXED = ["A. cat", "B. dog", "C. Hot Dog", "D. B"]
FILE = CASES / "rewards" / "choice.jsonl"
NAMED = [
    "B", "b", "B.", "(B)", "(B).", "(b)", "B)", "B.)", "B:", "B,", "B;", "( B )", "[B]", "{B}", "$B$", "$$B$$",
    "\\(B\\)", "\\text{B}", "\\mathrm{B}", "\\textbf{B}", "\\textit{B}", "$\\text{B}$", "$\\mathbf{B}$",
    "$\\mathbf{(B)}$", "\\text{(B)}", "(\\text{B})", "{\\text{B}}", "\\boxed{B}", "$\\boxed{\\text{B}}$", "**B**",
    "**B.**", "**(B)**", "*B*", "__B__", "`B`", "```B```", '"B"', "'B'", "\u201cB\u201d", "\u300cB\u300d",
    "\u3010B\u3011", "\uff08B\uff09", "\uff22", "**\uff22**", "B\u3002", "B\u3001", "B\uff1a", "B\u3001green",
    "B\uff1agreen", "B. green", "B) green", "(B) green", "[B] green", "**B** green", "**B.** green", "**B. green**",
    "B. **green**", "B green", "B - green", "B \u2013 green", "B: green.", "B. Green", "b) GREEN", "B. (green)",
    '"B. green"', "\\text{B. green}", "B. $\\text{green}$", "green", "Green.", "**green**", '"green"',
    "$\\text{green}$", "<b>B</b>", "<strong>B</strong>", " B\n",
]  # fmt: skip
NOT_NAMED = [
    "", "A and B", "A or B", "B or C", "not B", "Option B", "Answer: B", "The answer is B", "AB", "A/B", "B/C", "A,B",
    "A, B", "B, C", "[A, B]", "{A,B}", "(A)(B)", "(A) (B)", "$A$ $B$", "**A** **B**", "ABC", "A B C", "B B", "BB",
    "b c", "A. green", "A green", "B. red", "B. blue", "B green blue", "A. red B. green", "B (or C)", "B->C",
    "~~B~~ C", "B?", "!B", "B!", "B-", "B=", "-B", "~B", "(B", "B]", "[B", "**B", "B**", "*B", "$B", "\\text{B", "()",
    "**", "D", "1", "It is green", "not green", "red green", "greenish", "neither", "\u0412", "\u0392", "\ufb06",
    "[" * 400, "(" * 512,
]  # fmt: skip


@pytest.mark.parametrize("text", NAMED)
def test_markup_around_a_letter_or_text_does_not_count(text: str) -> None:
    assert choice(text, COLOURS) == "B"


@pytest.mark.parametrize("text", NOT_NAMED)
def test_words_and_two_letters_name_none(text: str) -> None:
    assert choice(text, COLOURS) is None


@pytest.mark.parametrize(
    ("texts", "read"),
    [
        (["AA", "Aa", "aa"], {"AA": "A", "Aa": "B", "aa": "C", "aA": None, "**Aa**": "B", "B. Aa": "B", "A. aa": None}),
        (["CO", "Co", "CO2"], {"CO": "A", "Co": "B", "co": None, "CO2": "C", "Co2": None, "co2": None}),
        (["5 mW", "5 MW", "7 kW"], {"5 mW": "A", "5 MW": "B", "5 mw": None, "7 KW": None, "7kW": "C"}),
        (["5 MW", "7 kW"], {"5 mW": None, "5 MW": "A"}),
        (["b", "a", "B", "c"], {"b": "A", "a": "B", "B": "B", "c": "D", "C": "C", "A. b": "A", "B. b": None}),
        (["I", "II", "III", "IV"], {"I": "A", "i": "A", "II": "B", "IV": "D", "A. I": "A"}),
        (["12", "3.5", "0.5", "100"], {"12": "A", "12.0": "A", "3.50": "B", ".5": "C", "100.": "D", "1 2": None}),
        (["31/2", "5"], {"3 1/2": None, "31/2": "A"}),
        (["-5", "5"], {"-5": "A", "5": "B", "\u22125": "A"}),
        (["$5", "$10", "5%"], {"$5": "A", "10": "B", "5\\%": "C"}),
        (
            ["$\\frac{1}{2}$", "$\\frac{12}{3}$", "$\\sqrt{2}$", "$2\\pi$"],
            {"\\frac12": "A", "$\\dfrac{1}{2}$": "A", "A) \\frac{1}{2}": "A", "\\frac{1}{23}": None, "\\sqrt2": "C",
             "\u221a2": "C", "2\u03c0": "D"},
        ),
        (["(0,1)", "[0,1]", "(0,1]"], {"(0, 1)": "A", "$[0, 1]$": "B", "{0,1}": None, "0,1": None}),
        (["(0,1)", "(2,3)"], {"[0,1]": None, "0,1": None}),
        (["cat", "cat", "dog"], {"cat": None, "A": "A", "B. cat": "B", "dog": "C"}),
        (["A and B", "B only"], {"A and B": "A", "A": "A", "B only": "B", "A. A and B": "A"}),
        (["dog", "a", "C"], {"B. A": None, "B, A": None, "B. a": "B", "C. C": "C", "B. C": None}),
        (["a cat", "a dog"], {"a dog": "B", "A dog": "B", "a cat": "A", "A. dog": None}),
        (["Yes", "No"], {"yes": "A", "NO": "B", "no.": "B", "yes and no": None}),
        (["E. coli", "S. aureus"], {"E. coli": "A", "coli": None, "S. aureus": "B", "A. E. coli": "A"}),
        (["red", "\u7eff\u8272"], {"B\u3001\u7eff\u8272": "B", "\u7eff\u8272\u3002": "B", "\u9009B": None}),
    ],
)  # fmt: skip
def test_texts_of_options(texts: list[str], read: dict[str, str | None]) -> None:
    options = [f"{letter}. {text}" for letter, text in zip("ABCDE", texts, strict=False)]
    assert {text: choice(text, options) for text in read} == read


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"), ("b", "B"), ("(B)", "B"), ("B.", "B"), ("B)", "B"), ("B:", "B"), ("B. dog", "B"), ("(B) dog", "B"),
        ("b. DOG", "B"), ("dog", "B"), ("hot dog", "C"), ("C. hotdog", "C"), ("\uff22", "B"),
        ("A. dog", None), ("A. B", None), ("A or B", None), ("AB", None), ("E", None), ("the dog", None), ("", None),
        ("a dog", None), ("(B", None), ("\ufb06", None), ("[" * 400, None),
    ],
)  # fmt: skip
def test_an_option_may_be_named_like_a_letter(text: str, letter: str | None) -> None:
    assert choice(text, MIXED) == letter


def test_options_may_have_their_own_letters_in_any_order() -> None:
    assert [choice(text, ["B. no", "A. yes"]) for text in ("A", "no", "yes", "(A) yes", "A. no")] == [
        "A", "B", "A", "A", None,
    ]  # fmt: skip
    assert choice("yes", ["(B) no", "(A) yes"]) == "A"


def test_options_in_the_question_take_any_letter_alone() -> None:
    assert [choice(text, []) for text in ("e", "**E**", "\\text{E}", "E. text", "text", "")] == ["E"] * 3 + [None] * 3


@pytest.mark.skipif(not FILE.exists(), reason="the cases are not on this machine")
def test_the_cases() -> None:
    words = ("Option B", "The answer is B.", "Answer: B", "It is green", "B?")
    for line in FILE.read_text().splitlines():
        case = json.loads(line)
        right = case.get("wanted", not any(f">{text}<" in case["completion"] for text in words))
        assert score(case["completion"], case["row"]).accuracy == right, case["completion"]
