"""The registry: how the answer of each problem type is read and compared with gold."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from lit_g2rpo.rewards.answers.choice import choice
from lit_g2rpo.rewards.answers.geometry import box, iou
from lit_g2rpo.rewards.answers.numbers import count, count_reward, number, numbers_agree, without_percent
from lit_g2rpo.rewards.answers.points import nearness, points, region, share_inside
from lit_g2rpo.rewards.answers.spans import span, span_iou
from lit_g2rpo.rewards.answers.text import character_accuracy
from lit_g2rpo.rewards.config import RewardConfig
from lit_g2rpo.rewards.rules.caption import rouge_l
from lit_g2rpo.rewards.rules.chart import chart_answers_agree
from lit_g2rpo.rewards.rules.detection import detection_f1, labelled_boxes
from lit_g2rpo.rewards.rules.document import anls, references
from lit_g2rpo.rewards.rules.gui import click, click_reward
from lit_g2rpo.rewards.rules.math import results_agree
from lit_g2rpo.rewards.rules.parity import rounded_numbers_agree, single_precision_accuracy, word_accuracy
from lit_g2rpo.rewards.rules.regression import mean_relative_accuracy
from lit_g2rpo.rewards.rules.segmentation import segmentation_reward, segmenter_prompt
from lit_g2rpo.rewards.rules.tracking import mean_iou, timed_reward, timed_track, track

Row = Mapping[str, Any]
T = TypeVar("T")

SHORT = 512
LONG = 4096


class Unreadable(Exception):
    """An answer or a gold answer that does not have the form of its problem type; the message is the error code."""


@dataclass(slots=True, frozen=True)
class Family:
    r"""How one problem type is scored.

    Args:
        accuracy: answer, gold answer, row and config to an accuracy from 0 to 1; raises `Unreadable`.
        gold_form: what the gold answer must be, in words.
        limit: length of answers that are read, characters; twice the gold answer's length if that is more.
        structured: the answer is JSON, and valid JSON is worth something in the released reward.
        verbatim: answer and gold are compared as they stand; else a ``\boxed{}`` around either is taken off.
    """

    accuracy: Callable[[str, str, Row, RewardConfig], float]
    gold_form: str
    limit: int = SHORT
    structured: bool = False
    verbatim: bool = False


def _choice(answer: str, gold: str, row: Row, config: RewardConfig) -> float:
    options = row.get("options") or ()
    right = _read(choice(gold, options), "bad_gold")
    return float(_read(choice(answer, options)) == right)


def _numerical(answer: str, gold: str, row: Row, config: RewardConfig) -> float:
    right = _read(number(without_percent(gold)), "bad_gold")
    given = _read(number(without_percent(answer)))
    agree = rounded_numbers_agree if config.style == "onethinker" else numbers_agree
    return float(agree(given, right))


def _regression(answer: str, gold: str, row: Row, config: RewardConfig) -> float:
    right = _read(number(gold), "bad_gold")
    rule = single_precision_accuracy if config.style == "onethinker" else mean_relative_accuracy
    return rule(_read(number(answer)), right)


def _transcription(answer: str, gold: str, row: Row, config: RewardConfig) -> float:
    return (word_accuracy if config.style == "onethinker" else character_accuracy)(answer, gold)


def _math(answer: str, gold: str, row: Row, config: RewardConfig) -> float:
    return float(results_agree(answer, gold))


def _grounding(answer: str, gold: str, row: Row, config: RewardConfig) -> float:
    right = _read(box(gold), "bad_gold")
    return iou(_read(box(answer)), right)


def _document(answer: str, gold: str, row: Row, config: RewardConfig) -> float:
    return anls(answer, _read(references(gold) or None, "bad_gold"))


def _chart(answer: str, gold: str, row: Row, config: RewardConfig) -> float:
    if row.get("options"):
        return _choice(answer, gold, row, config)
    return float(chart_answers_agree(answer, gold))


def _counting(answer: str, gold: str, row: Row, config: RewardConfig) -> float:
    right = _read(count(gold), "bad_gold")
    return count_reward(_read(count(answer)), right, config.dense)


def _pointing(answer: str, gold: str, row: Row, config: RewardConfig) -> float:
    target = region(gold)
    if target is not None:
        return share_inside(_read(points(answer)), target)
    right = _read(points(gold), "bad_gold")
    given = _read(points(answer))
    return nearness(given, right) if len(given) == len(right) else 0.0


def _clicking(answer: str, gold: str, row: Row, config: RewardConfig) -> float:
    target = _read(region(gold), "bad_gold")
    return click_reward(_read(click(answer)), target, config.dense)


def _detection(answer: str, gold: str, row: Row, config: RewardConfig) -> float:
    right = _read(labelled_boxes(gold), "bad_gold")
    return detection_f1(_read(labelled_boxes(answer)), right)


def _segmentation(answer: str, gold: str, row: Row, config: RewardConfig) -> float:
    right = _read(segmenter_prompt(gold), "bad_gold")
    return segmentation_reward(_read(segmenter_prompt(answer)), right)


def _span(answer: str, gold: str, row: Row, config: RewardConfig) -> float:
    right = _read(span(gold), "bad_gold")
    return span_iou(_read(span(answer)), right)


def _timed_track(answer: str, gold: str, row: Row, config: RewardConfig) -> float:
    right = _read(timed_track(gold), "bad_gold")
    return timed_reward(_read(timed_track(answer)), right)


def _track(answer: str, gold: str, row: Row, config: RewardConfig) -> float:
    right = _read(track(gold), "bad_gold")
    return mean_iou(_read(track(answer)), right)


def _open_ended(answer: str, gold: str, row: Row, config: RewardConfig) -> float:
    if config.open_ended == "none":
        raise Unreadable("no_reward")
    return rouge_l(answer, gold)


def _science(answer: str, gold: str, row: Row, config: RewardConfig) -> float:
    # The gold answer alone settles how answers are read: their own look must not choose their judge.
    if row.get("options"):
        return _choice(answer, gold, row, config)
    rule = _math if number(without_percent(gold)) is None else _numerical
    return rule(answer, gold, row, config)


def _code(answer: str, gold: str, row: Row, config: RewardConfig) -> float:
    raise Unreadable("no_reward")


def _read(value: T | None, code: str = "unparsed") -> T:
    if value is None:
        raise Unreadable(code)
    return value


_BOX = "[x1, y1, x2, y2] on the 0..1000 grid, x1 < x2 and y1 < y2"

_POINTS = '{"points": [[x, y], ..]}'
_SEGMENTER = f'"boxes": {_BOX}, "positive_points": three [x, y], "negative_points": three [x, y]'

FAMILIES = {
    "multiple choice": Family(_choice, "the letter of an option"),
    "numerical": Family(_numerical, "a plain number"),
    "regression": Family(_regression, "a plain number"),
    "OCR": Family(_transcription, "a text that is not empty", LONG, verbatim=True),
    "math": Family(_math, f"a result of at most {SHORT} characters, as a number, in LaTeX or in words"),
    "spatial grounding": Family(_grounding, f'{{"boxes": {_BOX}}}', SHORT, True),
    "document": Family(_document, "a text, or a JSON list of texts"),
    "chart": Family(_chart, "a number or a text, or with options the letter of one"),
    "counting": Family(_counting, "a whole number, 0 or more"),
    "point grounding": Family(_pointing, f'a box {_BOX}, {{"polygon": [[x, y], ..]}} or {_POINTS}', LONG, True),
    "GUI grounding": Family(_clicking, f'{{"boxes": {_BOX}}}, the element to click', SHORT, True),
    "detection": Family(_detection, f'[{{"bbox_2d": {_BOX}, "label": ".."}}, ..]', LONG, True),
    "segmentation": Family(_segmentation, f'{{{_SEGMENTER}}}, and "time" for a video', LONG, True),
    "temporal grounding": Family(_span, '{"time": [start, end]} in seconds, start <= end', SHORT, True),
    "spatial-temporal grounding": Family(
        _timed_track, f'{{"time": [start, end], "boxes": {{"second": {_BOX}, ..}}}}', LONG, True
    ),
    "tracking": Family(_track, f'{{"boxes": {{"second": {_BOX}, ..}}}}', LONG, True),
    "open-ended": Family(_open_ended, "a text with a word in it", LONG, verbatim=True),
    "scientific": Family(_science, "the letter of an option, a number or a result in LaTeX"),
    "code": Family(_code, "whatever the task's own reward reads", LONG, verbatim=True),
}

PROBLEM_TYPES = tuple(FAMILIES)
