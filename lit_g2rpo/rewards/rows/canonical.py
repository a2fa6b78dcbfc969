"""Conversion of rows in every accepted format to one shape: dicts in, dicts out, no file is opened."""

import re
from collections.abc import Mapping
from itertools import zip_longest
from typing import Any

from lit_g2rpo.rewards.answers.choice import LETTERS
from lit_g2rpo.rewards.answers.written import from_text
from lit_g2rpo.rewards.problem_types import known_problem_type
from lit_g2rpo.rewards.rows.indices import letter_of_index
from lit_g2rpo.rewards.rows.marks import marks_in_front, place_images
from lit_g2rpo.rewards.rows.media import first_number, is_source, take_images, take_videos
from lit_g2rpo.rewards.rows.objects import fill_objects, named_boxes, place_of_objects
from lit_g2rpo.rewards.rows.options import given_options, letter_of, lettered, offered_letter
from lit_g2rpo.rewards.rows.phrases import has_phrases
from lit_g2rpo.rewards.rows.places import place
from lit_g2rpo.rewards.rows.targets import answer_text, conclusion, likely_type, target
from lit_g2rpo.rewards.rows.turns import IMAGE as IMAGE
from lit_g2rpo.rewards.rows.turns import VIDEO as VIDEO
from lit_g2rpo.rewards.rows.turns import take_question
from lit_g2rpo.rewards.rows.values import listed, mapping, missing, shown

TASK_OF_SOURCE = {
    source: task
    for task, sources in {
        "spatial_grounding": "RefCOCO RefCOCOp RefCOCOg",
        "spatial_reasoning": "Spacellava OpenSpaces Super-CLEVR",
        "general_vqa_science_stem": "PMC-VQA A-OKVQA ArxivQA VQA-RAD SciQA TQA IconQA Visual7W",
        "math_reasoning": "ARES MMK12 TabMWP UniGeo GeoQA+ Geometry3K GVLQA CLEVR-Math hiyouga/geometry3k",
        "chart_figure_qa": "AI2D ChartQA PlotQA DVQA FigureQA MapQA",
        "ocr": "chrome_writting iam(cauldron) rendered_text(cauldron) textocr(gpt4v) textcaps HME100k TextVQA",
    }.items()
    for source in sources.split()
}
"""Task of a row that names none, by its source (OpenVLThinkerV2's sources)."""

SETTLES = {"bbox_type", "answer_as"}
"""Columns that say how to read an answer and are dropped afterwards."""
_JSON = ("reward_model", "objects", "extra_info")
"""Columns that some tables store as text."""
# reasoning, then an answer: a completion that a policy could imitate
_COMPLETION = re.compile(r"\s*<([\w-]+)>.*</\1>\s*<answer>.*</answer>\s*", re.DOTALL)


def canonical(row: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a row in any accepted format to one shape.

    Args:
        row: a row of OneThinker or OpenVLThinkerV2, EasyR1, TRL, verl, ms-swift, VLM-R1, LLaMA-Factory and the like, or
            a row that already has this shape.

    Returns:
        The row with ``id``, ``problem`` (with ``<image>`` in place of each image), ``problem_type``, ``task_type``
        (None if unknown), ``options`` (lettered), ``images`` (paths, bytes or PIL images), ``data_source``, ``videos``
        (paths or bytes) if it has any, ``answer`` (a text) if it has one, ``earlier_turns`` if turns precede the
        question, ``conversational`` if the prompt is a list of turns, and its other columns unchanged; the row itself
        if it already has this shape.

    Raises:
        ValueError: if the row cannot be understood.

    Source: the formats' own documentation; boxes become 0..1000 as Qwen3-VL writes them.
    """
    if _has_shape(row):
        return dict(row) if not isinstance(row, dict) else row
    rest = {key: from_text(value) if key in _JSON else value for key, value in row.items() if not missing(value)}
    if has_phrases(rest):
        raise ValueError("'answer' or 'sentences' lists phrases of one 'bbox'; 'data convert' writes a row for each")
    videos = take_videos(rest)
    images, column = take_images(rest)
    asked = take_question(rest, images, videos)
    if "earlier_turns" in rest:
        asked.earlier = _earlier(rest) + asked.earlier
    texts = given_options(rest)
    options = lettered(texts)
    filled, boxes, labels = fill_objects(asked, rest)
    options, images = place_images(asked, options, images, first_number(column))
    # rows with these columns are this project's own; their questions mark where each image goes
    if asked.column and not (
        asked.column == "problem" and column in (None, "images") and ("answer" in rest or "solution" not in rest)
    ):
        marks_in_front(asked, len(images), len(videos))
    source = str(rest.get("data_source", ""))
    task = rest.get("task_type", "")
    if task == "":
        task = (rest["task"] if isinstance(rest.get("task"), str) else None) or TASK_OF_SOURCE.get(source)
    found = place(rest, asked.reply, sees=bool(images or videos), chosen=bool(options), task=task, filled=filled)
    replied = filled and target(rest, None) is None
    if replied and found and found[1] == "detection" and (named := named_boxes(rest, boxes, labels)):
        found = named, "detection"
    answer = found[0] if found else target(rest, asked.reply)
    if answer is None and mapping(rest, "objects").get("bbox"):
        found = place_of_objects(rest, boxes, labels)
        answer = found[0] if found else None
    if isinstance(texts, list) and options != texts:
        answer = letter_of_index(rest, texts, answer)
    for settled in SETTLES:
        rest.pop(settled, None)
    kind = rest.get("problem_type", "")
    if kind == "":
        kind = found[1] if found else likely_type(rest, asked.problem, options, answer)
    if kind == "multiple choice" and not options and isinstance(answer, str):
        answer = offered_letter(asked.problem, answer) or answer
    if task is None and (known := known_problem_type(kind)):
        task = known.task
    shape = {
        "id": str(next((rest[key] for key in ("id", "problem_id", "question_id") if key in rest), "")),
        "problem": asked.problem,
        "problem_type": kind,
        "task_type": task,
        "options": options,
        "images": images,
        "data_source": source,
    }
    if videos:
        shape["videos"] = videos
    if asked.earlier:
        shape["earlier_turns"] = [{"role": role, "content": text} for role, text in asked.earlier]
    if asked.chat and asked.column == "prompt":
        shape["conversational"] = True
    if answer is not None:
        shape["answer"] = answer_text(answer, kind)
    if "demonstration" not in rest and asked.reply and _COMPLETION.fullmatch(asked.reply):
        shape["demonstration"] = asked.reply
    return rest | shape


def _earlier(rest: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the turns before the question of a row in this shape."""
    turns = listed(rest.pop("earlier_turns"))
    if not _are_turns(turns):
        raise ValueError(f"'earlier_turns' is {shown(turns)}; it must be a list of turns, each a role and a content")
    return [(turn["role"], turn["content"]) for turn in turns]


def _are_turns(turns: Any) -> bool:
    return isinstance(turns, list) and all(
        isinstance(turn, Mapping) and all(type(turn.get(key)) is str for key in ("role", "content")) for turn in turns
    )


def _has_shape(row: Mapping[str, Any]) -> bool:
    return (
        "task_type" in row
        and type(row.get("id")) is str
        and type(row.get("problem")) is str
        and type(row.get("problem_type")) is str
        and _are_lettered(row.get("options"))
        and type(images := row.get("images")) is list
        and all(map(is_source, images))
        and "video" not in row
        and SETTLES.isdisjoint(row)
        and all(type(video) in (str, bytes) for video in listed(row.get("videos")) or [])
        and type(row.get("data_source")) is str
        and type(answer := row.get("answer", "")) is str
        and conclusion(answer, row["problem_type"]) == answer
        and ("earlier_turns" not in row or _are_turns(row["earlier_turns"]))
    )


def _are_lettered(options: Any) -> bool:
    return type(options) is list and all(
        type(option) is str and letter_of(option) == letter
        for option, letter in zip_longest(options, LETTERS[: len(options)])
    )
