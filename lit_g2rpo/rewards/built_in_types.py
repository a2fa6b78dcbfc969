"""The built-in problem types: the wording, form of gold, reader and rule of each."""

import json
from functools import partial
from operator import eq

from lit_g2rpo.rewards.answers.choice import choice
from lit_g2rpo.rewards.answers.geometry import box, iou
from lit_g2rpo.rewards.answers.numbers import count, count_reward, marked_number, number, numbers_agree
from lit_g2rpo.rewards.answers.points import listed_points, nearness, point_within, points, region, share_inside
from lit_g2rpo.rewards.answers.results import plain_number
from lit_g2rpo.rewards.answers.spans import span, span_iou
from lit_g2rpo.rewards.answers.text import character_accuracy
from lit_g2rpo.rewards.config import RewardConfig
from lit_g2rpo.rewards.problem_type import LONG, ProblemType, Row, Unreadable, compared, readable
from lit_g2rpo.rewards.rules.caption import rouge_l
from lit_g2rpo.rewards.rules.chart import chart_answers_agree
from lit_g2rpo.rewards.rules.detection import labelled_boxes, listed_boxes, matched_share
from lit_g2rpo.rewards.rules.document import document_similarity
from lit_g2rpo.rewards.rules.drawing import boxes_and_points
from lit_g2rpo.rewards.rules.gui import click, click_reward
from lit_g2rpo.rewards.rules.math import MAX_RESULT_CHARACTERS, results_agree
from lit_g2rpo.rewards.rules.math_gold import math_gold
from lit_g2rpo.rewards.rules.parity import rounded_numbers_agree, single_precision_accuracy, word_accuracy
from lit_g2rpo.rewards.rules.regression import mean_relative_accuracy
from lit_g2rpo.rewards.rules.segmentation import segmentation_reward, segmenter_prompt
from lit_g2rpo.rewards.rules.tracking import (
    listed_timed_track,
    listed_track,
    mean_iou,
    released_timed_reward,
    timed_reward,
    timed_track,
    track,
    track_iou,
    track_of_timed,
)

_letter = partial(choice, options=())
_numerical = compared(plain_number, plain_number, numbers_agree, released=rounded_numbers_agree)
_in_region = compared(listed_points, region, share_inside)
_near_points = compared(points, points, lambda found, gold: nearness(found, gold) if len(found) == len(gold) else 0.0)


def _pointing(answer: str, gold: str, row: Row, config: RewardConfig) -> float:
    rule = _near_points if region(gold) is None else _in_region
    return rule(answer, gold, row, config)


def _segmenting(answer: str, gold: str, row: Row, config: RewardConfig) -> float:
    right, found = readable(segmenter_prompt(gold), "bad_gold"), readable(segmenter_prompt(answer))
    if (found.time is None) != (right.time is None):
        raise Unreadable("unparsed")
    return segmentation_reward(found, right)


def _math(answer: str, gold: str, row: Row, config: RewardConfig) -> float:
    return float(results_agree(answer, gold, question=row.get("problem", ""), final_form=config.final_form))


def _science(answer: str, gold: str, row: Row, config: RewardConfig) -> float:
    # Only the gold answer decides how answers are read, so an answer cannot pick its own judge by its form.
    if plain_number(gold) is not None and plain_number(answer) is not None:
        return _numerical(answer, gold, row, config)
    question = row.get("problem", "")
    return float(results_agree(answer, gold, question=question, final_form=config.final_form, close=numbers_agree))


def _open_ended(answer: str, gold: str, row: Row, config: RewardConfig) -> float:
    if config.open_ended == "none":
        raise Unreadable("no_reward")
    return rouge_l(answer, gold)


def _no_reward(answer: str, gold: str, row: Row, config: RewardConfig) -> float:
    raise Unreadable("no_reward")


def _point_in_region(gold: str) -> str:
    target = region(gold)
    return gold if target is None else json.dumps({"point_2d": point_within(target)})


_BOX = "[x1, y1, x2, y2] on the 0..1000 grid, x1 < x2 and y1 < y2"
_GRID = "on a grid from 0 to 1000 in both directions"
_SEGMENTER = f'"boxes": {_BOX}, "positive_points": three [x, y], "negative_points": three [x, y]'

BUILT_IN = {
    "multiple choice": ProblemType(
        compared(_letter, _letter, eq),
        "Give only the letter of the right option, for example <answer>A</answer>.",
        "the letter of an option",
        options=True,
        references=True,
    ),
    "numerical": ProblemType(
        _numerical,
        "Give only a number, for example <answer>3.14</answer>.",
        "a plain number",
        references=True,
    ),
    "regression": ProblemType(
        compared(marked_number, number, mean_relative_accuracy, released=single_precision_accuracy),
        "Give only a number, your best estimate, for example <answer>42.7</answer>.",
        "a plain number",
        style="hybrid",
        task="spatial_reasoning",
        references=True,
    ),
    "OCR": ProblemType(
        compared(str, str, character_accuracy, released=word_accuracy),
        "Give only the text you read, for example <answer>Hello world</answer>.",
        "a text that is not empty",
        limit=LONG,
        verbatim=True,
        solution=False,
        style="vision",
        task="ocr",
    ),
    "math": ProblemType(
        _math,
        "Give only the final result, as a number or in LaTeX, for example <answer>\\frac{1}{2}</answer>.",
        f"a result of at most {MAX_RESULT_CHARACTERS} characters, as a number, in LaTeX or in words",
        unreadable=math_gold,
        task="math_reasoning",
        references=True,
    ),
    "spatial grounding": ProblemType(
        compared(box, box, iou),
        f'Give only the box, {_GRID}, for example <answer>{{"boxes": [35, 227, 437, 932]}}</answer>.',
        f'{{"boxes": {_BOX}}}',
        structured=True,
        style="vision",
        task="spatial_grounding",
        draw=boxes_and_points,
    ),
    "document": ProblemType(
        compared(str, str, lambda answer, gold: document_similarity(answer, [gold])),
        "Give only the answer, as short as the document has it, for example <answer>12 May 1998</answer>.",
        "a text, or a JSON list of texts",
        solution=False,
        references=True,
        style="vision",
    ),
    "chart": ProblemType(
        compared(str, str, chart_answers_agree),
        "Give only a number or a few words, or the letter of the right option, for example <answer>14.2</answer>.",
        "a number or a text, or with options the letter of one",
        options=True,
        style="hybrid",
        task="chart_figure_qa",
        references=True,
    ),
    "counting": ProblemType(
        compared(count, count, count_reward, dense=partial(count_reward, dense=True)),
        "Give only how many there are, in digits, for example <answer>7</answer>.",
        "a whole number, 0 or more",
        style="hybrid",
        references=True,
    ),
    "point grounding": ProblemType(
        _pointing,
        f'Give only the points as JSON, {_GRID}, for example <answer>[{{"point_2d": [412, 603]}}]</answer>.',
        f'a box {_BOX}, {{"polygon": [[x, y], ..]}} or {{"points": [[x, y], ..]}}',
        limit=LONG,
        structured=True,
        from_gold=_point_in_region,
        style="vision",
        task="spatial_grounding",
        draw=boxes_and_points,
    ),
    "GUI grounding": ProblemType(
        compared(click, region, click_reward, dense=partial(click_reward, dense=True)),
        f'Give only the one point to click as JSON, {_GRID}, for example <answer>{{"point_2d": [412, 603]}}</answer>.',
        f'{{"boxes": {_BOX}}}, the element to click',
        structured=True,
        from_gold=_point_in_region,
        style="vision",
        draw=boxes_and_points,
    ),
    "detection": ProblemType(
        compared(listed_boxes, labelled_boxes, matched_share),
        f"Give only the boxes and their labels as JSON, {_GRID}, and an empty list if there are none, for example "
        '<answer>[{"bbox_2d": [35, 227, 437, 932], "label": "dog"}]</answer>.',
        f'[{{"bbox_2d": {_BOX}, "label": ".."}}, ..]',
        limit=LONG,
        structured=True,
        style="vision",
        task="spatial_grounding",
        draw=boxes_and_points,
    ),
    "segmentation": ProblemType(
        _segmenting,
        f"Give only JSON, {_GRID}: the object's box, three points on it and three points off it, for a video also the "
        'second at which it is seen best as "time", for example <answer>{"boxes": [35, 227, 437, 932], '
        '"positive_points": [[210, 400], [250, 610], [300, 800]], '
        '"negative_points": [[20, 100], [500, 300], [480, 950]]}</answer>.',
        f'{{{_SEGMENTER}}}, and "time" for a video',
        limit=LONG,
        structured=True,
        style="vision",
        draw=boxes_and_points,
    ),
    "temporal grounding": ProblemType(
        compared(span, span, span_iou),
        'Give only start and end in seconds as JSON, for example <answer>{"time": [12.3, 25.7]}</answer>.',
        '{"time": [start, end]} in seconds, start <= end',
        structured=True,
        style="vision",
    ),
    "spatial-temporal grounding": ProblemType(
        compared(listed_timed_track, timed_track, timed_reward, released=released_timed_reward),
        "Give only start and end in seconds, and one box for every whole second between them on a grid from 0 to 1000 "
        'in both directions, as JSON, for example <answer>{"time": [8.1, 10.4], "boxes": {"9": [317, 422, 582, 997], '
        '"10": [332, 175, 442, 369]}}</answer>.',
        f'{{"time": [start, end], "boxes": {{"second": {_BOX}, ..}}}}',
        limit=LONG,
        structured=True,
        style="vision",
        track=track_of_timed,
    ),
    "tracking": ProblemType(
        compared(listed_track, track, track_iou, released=mean_iou),
        f"Give only one box for every second, {_GRID}, as JSON, for example "
        '<answer>{"boxes": {"1": [405, 230, 654, 463], "2": [435, 223, 678, 446]}}</answer>.',
        f'{{"boxes": {{"second": {_BOX}, ..}}}}',
        limit=LONG,
        structured=True,
        style="vision",
        track=listed_track,
    ),
    "open-ended": ProblemType(
        _open_ended,
        "Give only your answer, in a sentence or two, for example <answer>A dog sleeps in the sun.</answer>.",
        "a text with a word in it",
        limit=LONG,
        verbatim=True,
        solution=False,
    ),
    "scientific": ProblemType(
        _science,
        "Give only the letter of the right option, or without options the final result as a number or in LaTeX, for "
        "example <answer>9.81</answer>.",
        "the letter of an option, a number or a result in LaTeX",
        unreadable=math_gold,
        options=True,
        task="general_vqa_science_stem",
        references=True,
    ),
    "code": ProblemType(
        _no_reward,
        "Give only the program, for example <answer>print(sum(range(10)))</answer>.",
        "whatever the task's own reward reads",
        limit=LONG,
        verbatim=True,
        solution=False,
    ),
}
"""Problem types by name, in the order of their ids."""
