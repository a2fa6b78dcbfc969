"""Open-ended answers: word overlap with a reference."""

import re

from rapidfuzz.distance import LCSseq

from lit_g2rpo.rewards.answers.text import fold

MAX_WORDS = 1000

# Scripts without blanks between words are split into characters: Thai to Lao, kana, Han.
_UNSPACED = "\u0e00-\u0eff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+")


def rouge_l(answer: str, gold: str) -> float:
    """Return the F-measure of the longest common subsequence of words; 0 beyond ``MAX_WORDS`` words.

    Source: ROUGE-L (Lin 2004), without stemming, and with words in every script.
    """
    a, g = _words(answer), _words(gold)
    if not a or not g or max(len(a), len(g)) > MAX_WORDS:
        return 0.0
    return 2 * LCSseq.similarity(a, g) / (len(a) + len(g))


def _words(text: str) -> list[str]:
    return _WORD.findall(fold(text).casefold())
