"""Documents: short answers to questions about a page, by edit distance."""

from collections.abc import Iterable

from rapidfuzz.distance import Levenshtein

from lit_g2rpo.rewards.answers.text import fold

LEAST_SIMILARITY = 0.5
"""Similarity below which an answer is a different one, not a misspelling."""


def document_similarity(answer: str, golds: Iterable[str]) -> float:
    """Return the normalized Levenshtein similarity to the closest gold answer, 0 below one half.

    Case and blanks are ignored.

    Source: ANLS of DocVQA (arXiv 2007.00398) for one question.
    """
    text = fold(answer).lower()
    best = max((Levenshtein.normalized_similarity(text, fold(gold).lower()) for gold in golds), default=0.0)
    return best if text and best >= LEAST_SIMILARITY else 0.0
