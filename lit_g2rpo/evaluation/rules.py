"""Rules that compare an answer with a data row for each benchmark: answer and row in, a number from 0 to 1 out.

A rule returns None if the answer cannot be read, which counts as 0, and raises ValueError if the row's gold answer
does not have the form that the rule needs.
"""

from rapidfuzz.distance import Levenshtein

from lit_g2rpo.evaluation import mmmu, text
from lit_g2rpo.evaluation.masks import check_mask, share_in_mask
from lit_g2rpo.rewards.answers.choice import LETTERS, choice
from lit_g2rpo.rewards.answers.geometry import Box, box, iou
from lit_g2rpo.rewards.answers.numbers import number, percentage
from lit_g2rpo.rewards.answers.parse import unwrap
from lit_g2rpo.rewards.answers.points import Region, inside, points, region
from lit_g2rpo.rewards.answers.references import references
from lit_g2rpo.rewards.answers.text import fold
from lit_g2rpo.rewards.problem_type import Row
from lit_g2rpo.rewards.rows.options import option_text
from lit_g2rpo.rewards.rules.math import results_agree


def letter(answer: str, row: Row) -> float | None:
    """Score an answer that names the gold option by its letter or its text."""
    gold = gold_letter(row)
    named = choice(answer, row["options"])
    return None if named is None else float(named == gold)


def mmmu_answer(answer: str, row: Row) -> float | None:
    """Score by MMMU's own rule: an option if the row has any, else an open answer."""
    if not row.get("options"):
        return mmmu.open_answer(answer, golds(row))
    gold = gold_letter(row)
    named = mmmu.option_letter(answer, [option_text(option) for option in row["options"]])
    return None if named is None else float(named == gold)


def nearest_reference(answer: str, row: Row) -> float | None:
    """Score by similarity to the closest reference."""
    return text.anls(answer, golds(row))


def relaxed(answer: str, row: Row) -> float | None:
    """Score by relaxed accuracy, with surrounding blanks removed."""
    return text.relaxed_accuracy(answer.strip(), golds(row)[0])


def ocr(answer: str, row: Row) -> float | None:
    """Score an answer that contains a reference."""
    return text.ocr_hit(answer, golds(row), row["dataset"])


def in_mask(answer: str, row: Row) -> float | None:
    """Score by the fraction of points in the row's mask."""
    check_mask(row["mask"])
    found = points(answer)
    return None if found is None else share_in_mask(found, row["mask"])


def robospatial(answer: str, row: Row) -> float | None:
    """Score yes or no by the beginning of the answer; else by whether the first point is in the gold polygon."""
    polygon = gold_polygon(row)
    if polygon is None:
        return float(answer.strip().lower().startswith(unwrap(row["answer"]).lower()))
    found = points(answer)
    return None if found is None else float(inside(found[0], polygon))


def overlap(answer: str, row: Row) -> float | None:
    """Score by intersection over union with the gold box."""
    gold = gold_box(row)
    found = box(answer)
    return None if found is None else iou(found, gold)


def mathvista(answer: str, row: Row) -> float | None:
    """Score the named option, or that of the closest spelling; an integer or rounded number; else equal text."""
    if row.get("options"):
        gold = gold_letter(row)
        named = choice(answer, row["options"])
        return float((named or _most_alike(answer, row["options"])) == gold)
    gold_text, kind = golds(row)[0], row["answer_type"]
    if kind not in ("integer", "float"):
        return float(fold(answer).casefold() == fold(gold_text).casefold())
    right, value = number(gold_text), percentage(answer)
    if right is None:
        raise ValueError(f"'answer' is {gold_text[:80]!r}; it must be a number")
    if value is None:
        return None
    return float(int(value) == right if kind == "integer" else round(value, int(row["precision"])) == right)


def choice_or_math(answer: str, row: Row) -> float | None:
    """Score the named option, or an equal mathematical result."""
    return letter(answer, row) if row.get("options") else float(results_agree(answer, golds(row)[0], final_form=False))


def number_or_text(answer: str, row: Row) -> float | None:
    """Score an equal number, or equal text ignoring case."""
    gold = golds(row)[0]
    value, right = percentage(answer), percentage(gold)
    if value is not None and right is not None:
        return float(value == right)
    return float(fold(answer).casefold() == fold(gold).casefold())


def golds(row: Row) -> list[str]:
    """Return the right answers of a row, at least one.

    Raises:
        ValueError: if there is none.
    """
    found = references(unwrap(row["answer"]))
    if not found:
        raise ValueError("'answer' is empty; give the right answer, or a list of right answers")
    return found


def gold_letter(row: Row) -> str:
    """Return the letter of a row's right option.

    Raises:
        ValueError: if the answer does not name an option.
    """
    gold = choice(unwrap(row["answer"]), row["options"]) if row.get("options") else None
    if gold is None:
        raise ValueError(f"'answer' {row['answer'][:80]!r} names none of 'options'; give the letter of one")
    return gold


def gold_box(row: Row) -> Box:
    """Return the right box of a row, on the 0..1000 grid.

    Raises:
        ValueError: if the answer is not a box.
    """
    gold = box(unwrap(row["answer"]))
    if gold is None:
        raise ValueError(f"'answer' is {row['answer'][:80]!r}; it must be a box on the 0..1000 grid")
    return gold


def gold_polygon(row: Row) -> Region | None:
    """Return the polygon that points must hit, on the 0..1000 grid; None if the answer is yes or no.

    Raises:
        ValueError: if the answer is neither.
    """
    gold = unwrap(row["answer"])
    if gold.lower() in ("yes", "no"):
        return None
    polygon = region(gold)
    if polygon is None:
        raise ValueError(f"'answer' is {gold[:80]!r}; it must be yes, no or a polygon")
    return polygon


def _most_alike(answer: str, options: list[str]) -> str:
    distances = [Levenshtein.distance(answer, option_text(option)) for option in options]
    return LETTERS[distances.index(min(distances))]
