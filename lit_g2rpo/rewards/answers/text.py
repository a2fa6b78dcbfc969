"""Text: normalization and character error rate."""

import re
import unicodedata

from rapidfuzz.distance import Levenshtein

_FOLD: dict[int, int | None] = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}
_FOLD |= dict.fromkeys((0x00A0, 0x202F, 0x3000), 0x20)
_FOLD |= dict.fromkeys((0x200B, 0x200C, 0x200D, 0x2060, 0xFEFF))


def fold(text: str) -> str:
    """Unify how a text is written without changing its meaning.

    Composes accents (NFC), turns full-width ASCII into ASCII and every run of blanks into one space, and drops
    zero-width characters. NFKC is not used because it would turn a superscript two into a two.
    """
    if not text.isascii():
        text = unicodedata.normalize("NFC", text).translate(_FOLD)
    return " ".join(text.split())


def words_agree(answer: str, gold: str) -> bool:
    """Compare words, ignoring blanks, and case except in symbols such as CO or Bb."""
    a, g = answer.replace(" ", ""), gold.replace(" ", "")
    if a == g or a.casefold() != g.casefold():
        return a == g
    ours, theirs = (re.findall(r"[^\W\d_]+", text) for text in (answer, gold))
    return not any(a != g and (_is_symbol(a) or _is_symbol(g)) for a, g in zip(ours, theirs, strict=False))


def _is_symbol(word: str) -> bool:
    low = word.casefold()
    if len(word) < 3:
        return low not in ("no", "on", "up", "in")
    mixed = word != word.lower() and not word.isupper() and not word.istitle()
    doubled = len(word) % 2 == 0 and all(low[at] == low[at + 1] for at in range(0, len(low), 2))
    return mixed or doubled


def character_accuracy(answer: str, gold: str) -> float:
    """Score a transcription by ``max(0, 1 - CER)``, where CER is the edit distance per gold character."""
    answer, gold = fold(answer), fold(gold)
    if not answer or not gold:
        return 0.0
    return max(0.0, 1.0 - Levenshtein.distance(answer, gold, score_cutoff=len(gold)) / len(gold))
