"""Rules of the suites: text and data row in, a number from 0 to 1 out, None if the rule reads nothing."""

from lit_g2rpo.evaluation import mmmu, rules
from lit_g2rpo.evaluation.masks import check_mask, share_of_pixels
from lit_g2rpo.evaluation.suites.options import concluded_option, inferred_option, lettered_texts
from lit_g2rpo.evaluation.suites.places import first_box, first_point, pixels
from lit_g2rpo.rewards.answers.geometry import iou
from lit_g2rpo.rewards.answers.numbers import number
from lit_g2rpo.rewards.answers.parse import last_boxed
from lit_g2rpo.rewards.answers.points import inside
from lit_g2rpo.rewards.problem_type import Row
from lit_g2rpo.rewards.rules.math import results_agree

MAX_TEXT = 65_536
"""Most characters read from a text."""


def mmmu_answer(text: str, row: Row) -> float | None:
    """Score by MMMU's own rule, even texts longer than an answer."""
    return rules.mmmu_answer(text, row) if row.get("options") else mmmu.open_answer(text, rules.golds(row), MAX_TEXT)


def inferred(text: str, row: Row) -> float | None:
    """Score the option that VLMEvalKit infers without a judge."""
    gold = rules.gold_letter(row)
    named = inferred_option(text, lettered_texts(row["options"]))
    return None if named is None else float(named == gold)


def concluded(text: str, row: Row) -> float | None:
    """Score the option that VLMEvalKit finds in the answers of spatial benchmarks."""
    gold = rules.gold_letter(row)
    named = concluded_option(text)
    return None if named is None else float(named == gold)


def overlap(text: str, row: Row) -> float | None:
    """Score the first box in the text by its intersection over union with gold."""
    gold = rules.gold_box(row)
    found = first_box(text, row)
    return None if found is None else iou(found, gold)


def in_mask(text: str, row: Row) -> float | None:
    """Score by the fraction of all points in the text that are in the row's mask."""
    height, width = check_mask(row["mask"])
    found = pixels(text, width, height)
    return share_of_pixels(found, row["mask"]) if found else None


def robospatial(text: str, row: Row) -> float | None:
    """Score yes or no by the beginning of the text, else by whether its first point is in the gold polygon."""
    polygon = rules.gold_polygon(row)
    if polygon is None:
        return rules.robospatial(text, row)
    found = first_point(text, row)
    return None if found is None else float(inside(found, polygon))


def mathvista(text: str, row: Row) -> float | None:
    """Score the inferred option, or a text that is only a number; leave the rest to the judge."""
    if row.get("options"):
        return inferred(text, row)
    is_number = row["answer_type"] in ("integer", "float") and number(text) is not None
    return rules.mathvista(text, row) if is_number else None


def mathvision(text: str, row: Row) -> float | None:
    """Score the inferred option; a text or its last box is right if it equals gold, else leave it to the judge."""
    if row.get("options"):
        return inferred(text, row)
    boxed = last_boxed(text)
    answer = text if boxed is None else boxed
    return 1.0 if results_agree(answer, rules.golds(row)[0], final_form=False) else None


def unread(text: str, row: Row) -> None:
    """Read nothing: leave everything to the judge.

    Raises:
        ValueError: if the row has no gold answer.
    """
    rules.golds(row)
