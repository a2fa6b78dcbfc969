"""MMMU's own reading of an answer, for options and for open questions."""

import re
from collections.abc import Sequence

from lit_g2rpo.rewards.answers.choice import LETTERS

MAX_OPEN_ANSWER = 4096
LEADS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
TRIVIAL = frozenset(":,.!?;'")
# every digit of a run starts a number, so time grows with the square of its length
_ENDLESS = re.compile(r"\d{101}")

# Each unbounded run is fenced by a literal or by the end of the number.
_NUMBERS = (
    re.compile(r"-?\b\d\d?\d?(?:,\d\d\d)+\b"),
    re.compile(r"-?\d+(?:\.\d+)?e[+-]?\d+"),
    re.compile(r"-?(?:\d*\.\d+|\d+\b)(?!e[+-]?\d)(?![\d,])"),
)


def option_letter(answer: str, options: Sequence[str]) -> str | None:
    """Read which option an answer names: a letter in brackets, before a space or before a period, else its text.

    Of several matches, the last counts. The reference guesses at random if it finds none; here that is no answer, so
    that the score of a run is deterministic.

    Args:
        options: texts of the options, in the order of their letters, without letters.

    Source: MMMU-Benchmark/MMMU eval/eval_utils.py, parse_multi_choice_response.
    """
    for mark in ",.!?;:'":
        answer = answer.strip(mark)
    text = f" {answer} "
    letters = LETTERS[: len(options)]
    for found, place in (("({})", "({})"), ("{} ", " {} "), ("{}.", " {} ")):
        named = [letter for letter in letters if found.format(letter) in text]
        if named:
            return max(named, key=lambda letter: text.rfind(place.format(letter)))
    if len(text.split()) <= 5:
        return None
    low = text.lower()
    places = {letter: low.rfind(option.lower()) for letter, option in zip(letters, options, strict=True)}
    best = max(places, key=places.__getitem__, default=None)
    return best if best and places[best] >= 0 else None


def open_answer(answer: str, golds: Sequence[str], longest: int = MAX_OPEN_ANSWER) -> float | None:
    """Compare the answer to an open question with the right ones; None if it is too long to read.

    Candidates are the text after words such as "is" or an equals sign, and the numbers in it. A candidate must contain
    the gold text, or equal the gold number to two decimals.

    Args:
        longest: most characters; numbers may have at most 100 digits.

    Source: MMMU-Benchmark/MMMU eval/eval_utils.py, parse_open_response and eval_open.
    """
    if len(answer) > longest or _ENDLESS.search(answer):
        return None
    phrases = _phrases(answer)
    numbers = [number for phrase in phrases for pattern in _NUMBERS for number in pattern.findall(phrase)]
    candidates = [value for text in (*phrases, *numbers) for value in _values(text)]
    right = [value for gold in golds for value in _values(gold)]
    return float(any(_agree(candidate, gold) for candidate in candidates for gold in right))


def _agree(candidate: str | float, gold: str | float) -> bool:
    if isinstance(candidate, str):
        return isinstance(gold, str) and gold in candidate
    return candidate == gold


def _phrases(answer: str) -> list[str]:
    answer = answer.strip().strip(".").lower()
    lines = answer.split("\n")
    phrases = []
    for line in lines:
        leads = (*LEADS, "=") if line is lines[-1] else LEADS
        shortest = ""
        for lead in leads:
            if lead in line:
                tail = line.rpartition(lead)[2].strip()
                if not shortest or len(tail) < len(shortest):
                    shortest = tail
        if shortest and shortest not in TRIVIAL:
            phrases.append(shortest)
    return phrases or [answer]


def _values(text: str) -> list[str | float]:
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        low = text.lower()
        # a single letter must be a separate word, or it would match inside any word
        return [f" {low}", f"{low} "] if len(low) == 1 else [low]
