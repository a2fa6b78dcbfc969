"""The option that a text names, as VLMEvalKit infers it without a judge."""

import re
from collections.abc import Mapping, Sequence

from lit_g2rpo.rewards.answers.choice import LETTERS
from lit_g2rpo.rewards.rows.options import option_text

REFUSED = "Z"
"""Letter for a text that refuses to answer; no option has it."""

_REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
_MARKS = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
_LAST_WORDS = 4
_STATED = re.compile(r"answer\s+is\s+\**([ABCD])", re.IGNORECASE)

_INVISIBLE = re.compile("[\u200b\u200c\u200d\ufeff]")
_LINES, _CHARACTERS = 6, 800
# full-width marks: Chinese brackets, commas and periods
_LISTED = re.compile(r"[*_>\-\s]*(?:option|选项)\s+[A-J]\s*[:\uff1a]", re.IGNORECASE)
_ALONE = re.compile(
    r"[*_`>\uff08\uff09\[\]\u3010\u3011()]*+\s*+([A-Fa-f])\s*+[*_`\uff08\uff09\[\]\u3010\u3011()]*+\s*+"
)
_LABEL = re.compile(r"([A-F])\s*[.\uff0e\uff1a:)\]\u3011\u3001-]\s", re.IGNORECASE)
_APART = re.compile(
    r"(?<![A-Za-z])([A-F])(?=[*_`}]*(?:\Z|[\s.,:;!?)\]\u3011\u300b\u300d\u300f\uff0c\u3002\uff1b\u3001\uff1a\uff09]))"
)
_CONCLUDED = re.compile(
    r"(?:final\s*answer|the\s*answer\s*is|answer(?:\s*is)?|correct\s*answer"
    r"|答案|最终答案|结论|所以|因此|我选(?:择)?|选择|选)"
    # possessive, or blanks after the phrase would be split in every way
    r"\s*+(?:[:\uff1a>\uff1d=]\s*+)?(?:[(\[{\uff08\u3010]\s*+)?([A-F])(?!\w)",
    re.IGNORECASE,
)
_ANYWHERE = re.compile(r"(?<![A-Za-z])[A-F](?![A-Za-z])")


def inferred_option(text: str, options: Mapping[str, str]) -> str | None:
    """Read the only capital letter among the last four words, a stated answer, or the text of the only named option.

    Args:
        options: text of each option by its letter.

    Returns:
        A letter of ``options``, or ``REFUSED``; None if nothing is named, or more than one.

    Source: VLMEvalKit d21c5e9, vlmeval/utils/matching_util.py, can_infer.
    """
    if any(refusal in text for refusal in _REFUSALS):
        return REFUSED
    words = text.translate(_MARKS).split()
    named = [letter for letter in options if letter in words]
    if len(named) == 1 and words.index(named[0]) >= len(words) - _LAST_WORDS:
        return named[0]
    if not named and REFUSED in words:
        return REFUSED
    # no boundary after the letter: the original reads "the answer is blue" as B
    stated = _STATED.search(text)
    if stated and stated[1].upper() in options:
        return stated[1].upper()
    low = text.lower()
    if len(low) > 2 * sum(map(len, options.values())):
        return None
    spelt = [letter for letter, option in options.items() if option.lower() in low]
    return spelt[0] if len(spelt) == 1 else None


def concluded_option(text: str) -> str | None:
    """Read the letter, A to F, in the last lines, else in a concluding phrase, else the only one in the text.

    Source: VLMEvalKit 0.0.20, vlmeval/dataset/utils/spatial_bench/matching_func.py, can_match_option, for a text
    without tags.
    """
    text = _INVISIBLE.sub("", text.strip())
    for part in (text, text[-_CHARACTERS:]):
        if letter := _of_last_lines(part.splitlines()[-_LINES:]):
            return letter
    if concluded := _CONCLUDED.search(text):
        return concluded[1].upper()
    found = {letter for line in text.splitlines() if not _LISTED.match(line) for letter in _ANYWHERE.findall(line)}
    return found.pop() if len(found) == 1 else None


def lettered_texts(options: Sequence[str]) -> dict[str, str]:
    """Return the texts of a row's options by letter."""
    return {letter: option_text(option) for letter, option in zip(LETTERS, options, strict=False)}


def _of_last_lines(lines: Sequence[str]) -> str | None:
    for line in filter(None, map(str.strip, reversed(lines))):
        if _LISTED.match(line):
            continue
        if found := _ALONE.fullmatch(line) or _LABEL.match(line):
            return str(found[1]).upper()
        apart: set[str] = set(_APART.findall(line))
        if len(apart) == 1:
            return apart.pop()
    return None
