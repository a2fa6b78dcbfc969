"""Rules for short texts, as published by the benchmarks, including their quirks."""

from collections.abc import Sequence

from rapidfuzz.distance import Levenshtein

ANLS_THRESHOLD = 0.5
RELAXED_TOLERANCE = 0.05

_FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {0x3000: 0x20}


def anls(answer: str, references: Sequence[str]) -> float:
    """Return the normalized Levenshtein similarity of one answer to the closest reference, 0 below one half.

    The distance is between texts in lower case with single spaces; it is normalized by the length of the longer
    original text.

    Source: DocVQA (arXiv 2007.00398), in the form of lmms-eval 0.7.3.
    """
    nearest = max(_similarity(answer, reference) for reference in references)
    return nearest if nearest >= ANLS_THRESHOLD else 0.0


def _similarity(answer: str, reference: str) -> float:
    distance = Levenshtein.distance(" ".join(reference.lower().split()), " ".join(answer.lower().split()))
    # the upper-case form may be longer than the text; the reference code uses it too
    length = max(len(reference.upper()), len(answer.upper()))
    return 1.0 - distance / length if length else 1.0


def relaxed_accuracy(answer: str, gold: str) -> float:
    """Compare an answer with gold: numbers to within 5 %, other texts by equality ignoring case.

    Percentages are divided by a hundred; a gold of zero is compared as text; years count as numbers.

    Source: ChartQA (arXiv 2203.10244) section 5.1, in the form of pix2struct that both suites share.
    """
    value, right = _float(answer), _float(gold)
    if value is not None and right:
        return float(abs(value - right) / abs(right) <= RELAXED_TOLERANCE)
    return float(answer.lower() == gold.lower())


def _float(text: str) -> float | None:
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None


def ocr_hit(answer: str, references: Sequence[str], dataset: str) -> float:
    """Return whether an answer contains a reference.

    Case and full width are ignored and line breaks are spaces, except in HME100k, where blanks are ignored but case is
    not.

    Args:
        dataset: name of the part of OCRBench.

    Source: OCRBench (arXiv 2305.07895), in the form of lmms-eval 0.7.3.
    """
    form = _formula if dataset == "HME100k" else _line
    return float(any(form(reference) in form(answer) for reference in references))


def _formula(text: str) -> str:
    return text.strip().replace("\n", "").replace(" ", "")


def _line(text: str) -> str:
    return text.translate(_FULL_WIDTH).lower().strip().replace("\n", " ")
