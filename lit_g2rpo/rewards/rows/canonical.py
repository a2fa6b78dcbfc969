"""Data rows of every accepted format, brought to one shape; dicts in, dicts out, no file is opened."""

import base64
import binascii
import re
from collections.abc import Mapping
from itertools import zip_longest
from typing import Any

from lit_g2rpo.rewards.answers.choice import LETTERS
from lit_g2rpo.rewards.problem_types import known_problem_type
from lit_g2rpo.rewards.rows.options import letter_of, lettered, offered_letter
from lit_g2rpo.rewards.rows.phrases import has_phrases
from lit_g2rpo.rewards.rows.targets import answer_text, conclusion, likely_type, target
from lit_g2rpo.rewards.rows.values import listed, mapping, missing, named, shown

IMAGE, VIDEO = "<image>", "<video>"

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
"""Task of a row that names none, by where it comes from (OpenVLThinkerV2's sources)."""

_QUESTIONS = ("problem", "question", "query")
_TURNS = ("prompt", "messages", "conversations")
# reasoning, then an answer: what a policy could imitate
_COMPLETION = re.compile(r"\s*<([\w-]+)>.*</\1>\s*<answer>.*</answer>\s*", re.DOTALL)
_ROLES = {"human": "user", "gpt": "assistant"}


def canonical(row: Mapping[str, Any]) -> dict[str, Any]:
    """Bring a row of any accepted format to one shape.

    Args:
        row: a row of OneThinker or OpenVLThinkerV2, EasyR1, TRL, verl, ms-swift or VLM-R1, or a row of this shape.

    Returns:
        The row with ``id``, ``problem`` (an ``<image>`` where an image stands), ``problem_type``, ``task_type`` (None
        if nothing settles them), ``options`` (lettered), ``images`` (paths, bytes or PIL images), ``data_source``,
        ``videos`` (paths or bytes) if it has any, ``answer`` (a text) if the row has one, and its other columns as they
        are; the row itself if it has this shape.

    Raises:
        ValueError: if the row cannot be understood.

    Source: the formats' own documentation; boxes become 0..1000 as Qwen3-VL writes them.
    """
    if _has_shape(row):
        return dict(row) if not isinstance(row, dict) else row
    rest = {key: value for key, value in row.items() if not missing(value)}
    if has_phrases(rest):
        raise ValueError("'answer' lists phrases of one 'bbox'; 'data convert' writes a row for each")
    videos, images = _videos(rest), _images(rest)
    problem, reply, placed = _question(rest, images, videos)
    if not placed and IMAGE not in problem:
        problem = IMAGE * len(images) + problem
    if not placed and VIDEO not in problem:
        problem = VIDEO * len(videos) + problem
    answer = target(rest, reply)
    options = lettered(rest.get("options", rest.get("choices")))
    kind = rest.get("problem_type", "")
    kind = likely_type(rest, problem, options, answer) if kind == "" else kind
    if kind == "multiple choice" and not options and isinstance(answer, str):
        answer = offered_letter(problem, answer) or answer
    source = str(rest.get("data_source", ""))
    task = rest.get("task_type", "")
    if task == "":
        task = (rest["task"] if isinstance(rest.get("task"), str) else None) or TASK_OF_SOURCE.get(source)
    if task is None and (known := known_problem_type(kind)):
        task = known.task
    shape = {
        "id": str(next((rest[key] for key in ("id", "problem_id", "question_id") if key in rest), "")),
        "problem": problem,
        "problem_type": kind,
        "task_type": task,
        "options": options,
        "images": images,
        "data_source": source,
    }
    if videos:
        shape["videos"] = videos
    if answer is not None:
        shape["answer"] = answer_text(answer, kind)
    if "demonstration" not in rest and reply and _COMPLETION.fullmatch(reply):
        shape["demonstration"] = reply
    return rest | shape


def _has_shape(row: Mapping[str, Any]) -> bool:
    return (
        "task_type" in row
        and type(row.get("id")) is str
        and type(row.get("problem")) is str
        and type(row.get("problem_type")) is str
        and _are_lettered(row.get("options"))
        and type(images := row.get("images")) is list
        and all(map(_is_source, images))
        and "video" not in row
        and all(type(video) in (str, bytes) for video in listed(row.get("videos")) or [])
        and type(row.get("data_source")) is str
        and type(answer := row.get("answer", "")) is str
        and conclusion(answer, row["problem_type"]) == answer
    )


def _is_source(image: Any) -> bool:
    if type(image) is str:
        return not image.startswith("data:")
    return type(image) is bytes or hasattr(image, "convert")


def _are_lettered(options: Any) -> bool:
    return type(options) is list and all(
        type(option) is str and letter_of(option) == letter
        for option, letter in zip_longest(options, LETTERS[: len(options)])
    )


def _images(rest: dict[str, Any]) -> list[Any]:
    found = listed(rest.pop("images", None))
    single = rest.pop("image", None)
    if found is None and single is not None:
        found = listed(single)
    if found is None and "solution" in rest and isinstance(rest.get("path"), str):
        more = rest.pop("additional_path", None) or []
        found = [rest.pop("path"), *([more] if isinstance(more, str) else more)]
    if found is None:
        return []
    return [_image(image) for image in (found if isinstance(found, list) else [found])]


def _videos(rest: dict[str, Any]) -> list[Any]:
    found = listed(rest.pop("videos", None))
    single = rest.pop("video", None)
    if found is None and single is not None:
        found = listed(single)
    if found is None and rest.get("data_type") == "video" and isinstance(rest.get("path"), str):
        found = rest.pop("path")
    if found is None:
        return []
    return [_video(video) for video in (found if isinstance(found, list) else [found])]


def _video(video: Any) -> Any:
    source, part = video, {}
    if isinstance(video, Mapping):
        source = next((video[key] for key in ("bytes", "path", "video", "url") if video.get(key) is not None), None)
        part = {key: video[key] for key in ("video_start", "video_end") if video.get(key) is not None}
    if not isinstance(source, str | bytes):
        raise ValueError(f"'videos' holds {shown(video)}; give paths or bytes")
    return {"video": source, **part} if part else source


def _image(image: Any) -> Any:
    if isinstance(image, Mapping):
        image = next((image[key] for key in ("bytes", "path", "image", "url") if _given(image.get(key))), image)
    if isinstance(image, str) and image.startswith("data:image"):
        try:
            return base64.b64decode(image.partition(",")[2], validate=True)
        except binascii.Error as error:
            raise ValueError(f"an image is a data address that cannot be decoded ({error})") from None
    if not (isinstance(image, str | bytes) or hasattr(image, "convert")):
        raise ValueError(f"'images' holds {shown(image)}; give paths, bytes or PIL images")
    return image


def _given(source: Any) -> bool:
    return source is not None and not (isinstance(source, str | bytes) and not source)


def _question(rest: dict[str, Any], images: list[Any], videos: list[Any]) -> tuple[str, str | None, bool]:
    """Find the question, the assistant's turn behind it, and whether the format always writes the places of images."""
    name = next((name for name in _QUESTIONS if name in rest), None)
    if name is not None:
        problem = rest.pop(name)
        if not isinstance(problem, str):
            raise ValueError(f"{name!r} is {shown(problem)}; it must be a text")
        return problem, None, name == "problem" and ("answer" in rest or "solution" not in rest)
    name = next((name for name in _TURNS if name in rest), None)
    if name is None:
        if "problem_type" in rest:
            return "", None, True
        raise ValueError(f"no question: none of the columns {', '.join(_QUESTIONS + _TURNS)}; it has {named(rest)}")
    turns = listed(rest.pop(name))
    if isinstance(turns, str):
        return turns, None, False
    if not isinstance(turns, list) or not all(isinstance(turn, Mapping) for turn in turns):
        raise ValueError(f"{name!r} is {shown(turns)}; it must be a text or a list of turns")
    texts: list[tuple[str, str]] = []
    for turn in turns:
        role = str(turn.get("role", turn.get("from")))
        texts.append((_ROLES.get(role, role), _content(turn.get("content", turn.get("value")), images, videos)))
    # A system turn asks for another form of the answer than the prompt of this project does.
    texts = [(role, text) for role, text in texts if role != "system"]
    if [role for role, _ in texts] not in (["user"], ["user", "assistant"]):
        roles = named(role for role, _ in texts) or "nothing"
        raise ValueError(f"{name!r} holds {roles}; it must hold one user turn, and an assistant's behind it at most")
    problem = texts[0][1]
    labels = listed(mapping(rest, "objects").get("ref"))
    for label in labels if isinstance(labels, list) else []:
        problem = problem.replace("<ref-object>", str(label), 1)
    return problem, texts[1][1] if len(texts) > 1 else None, False


def _content(content: Any, images: list[Any], videos: list[Any]) -> str:
    content = listed(content)
    if isinstance(content, list):
        return "".join(_block(block, images, videos) for block in content)
    if isinstance(content, str | int | float) and not isinstance(content, bool):
        return str(content)
    raise ValueError(f"the content of a turn is {shown(content)}; it must be a text or a list of blocks")


def _block(block: Any, images: list[Any], videos: list[Any]) -> str:
    kind = block.get("type") if isinstance(block, Mapping) else None
    if kind == "text" and isinstance(block.get("text"), str):
        return str(block["text"])
    if kind in ("image", "image_url"):
        # tables fill the keys that other blocks have with null
        inside = next((block[key] for key in ("image", "image_url", "path", "url") if block.get(key) is not None), None)
        if inside is not None:
            images.append(_image(inside))
        return IMAGE
    if kind == "video":
        if any(block.get(key) is not None for key in ("video", "path", "url")):
            videos.append(_video({key: value for key, value in block.items() if key != "type"}))
        return VIDEO
    raise ValueError(f"a turn holds {shown(block)}; its blocks must be of type text, image or video")
