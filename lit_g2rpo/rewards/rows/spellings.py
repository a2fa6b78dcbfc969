"""Spellings of boxes, points and times in answers, each converted to one form of JSON."""

import json
import re
from typing import Any

from lit_g2rpo.rewards.answers.structured import json_value
from lit_g2rpo.rewards.answers.written import from_text
from lit_g2rpo.rewards.rows.scales import GRID, is_box, numbers
from lit_g2rpo.rewards.rows.values import listed, shown

Found = tuple[str, Any, str | None]
"""Problem type, content, and spelling: ``OWN``, ``LISTED``, ``BARE``, or None for other JSON."""

_BOX_MARK = re.compile(
    r"(?:<\|?(?:object_ref_start|ref)\|?>(?P<label>[^<]*)<\|?(?:object_ref_end|/ref)\|?>\s*)?"
    r"<\|?(?P<name>box|bbox|det)(?:_start)?\|?>(?P<box>.*?)<\|?(?:/(?P=name)|(?P=name)_end)\|?>",
    re.DOTALL,
)
_POINT_MARK = re.compile(r"<\|?point(?:_start)?\|?>(?P<point>[^<>]*)<\|?(?:/point|point_end)\|?>", re.DOTALL)
_UNREAD = re.compile(r"<\|?(?:quad|poly|polygon|loc|bin|points? )[\w]*[^<>]*\|?>")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_LIST = re.compile(r"\[\s*(?:\d+(?:\.\d+)?\s*,\s*){3}\d+(?:\.\d+)?\s*\]")
_SIGNED = r"\s*-?\d+(?:\.\d+)?\s*"
_BARE = re.compile(rf"\({_SIGNED},{_SIGNED}\)\s*,?\s*\({_SIGNED},{_SIGNED}\)|\(?{_SIGNED}(?:,\s{_SIGNED}){{3}}\)?")
_FENCE = re.compile(r"```(?:json)?\s*(.*?)```", re.DOTALL)
_WHOLE = {
    frozenset({"time"}): "temporal grounding",
    frozenset({"time", "boxes"}): "spatial-temporal grounding",
    frozenset({"boxes", "positive_points", "negative_points"}): "segmentation",
    frozenset({"boxes", "positive_points", "negative_points", "time"}): "segmentation",
    frozenset({"points"}): "point grounding",
    frozenset({"polygon"}): "point grounding",
}
"""Problem types by the keys of an answer that already has its final form."""
LIKELY_POINT = 100
"""Pairs of numbers up to this are the answer to a math question."""
PROSE = 200
"""Most characters of a sentence that is searched for a box."""
OWN, LISTED, BARE = "own", "listed", "bare"
"""Spellings: always on the grid; plain lists of numbers; numbers in parentheses or without brackets."""


def answer_inside(text: str) -> Any:
    """Read the JSON of an answer, with or without tags around it."""
    body = text.rpartition("<answer>")[2].partition("</answer>")[0] if "</answer>" in text else text
    found = json_value(body)
    if found is None:
        found = from_text(body.strip())
    return found


def read_place(value: Any) -> Found | None:
    """Find the problem type, the content, and the spelling: one of those above, or other JSON."""
    if not isinstance(value, str):
        return _of_json(value)
    body = value.rpartition("<answer>")[2].partition("</answer>")[0] if "</answer>" in value else value
    body = body.strip().removeprefix("<tool_call>").removesuffix("</tool_call>")
    marked = list(_BOX_MARK.finditer(body))
    if marked:
        boxes: list[dict[str, Any]] = []
        for match in marked:
            figures = [float(figure) for figure in _NUMBER.findall(match["box"])]
            if not figures or len(figures) % 4:
                raise ValueError(f"{shown(match[0])} is no box; it must hold x1, y1, x2, y2")
            label = (match["label"] or "").strip()
            boxes += [{"bbox_2d": figures[i : i + 4], "label": label} for i in range(0, len(figures), 4)]
        return _of_number(boxes), boxes, OWN
    points = [[float(figure) for figure in _NUMBER.findall(match["point"])] for match in _POINT_MARK.finditer(body)]
    if points and all(len(point) == 2 for point in points):
        return "point grounding", {"points": points}, OWN
    if unread := _UNREAD.search(body):
        raise ValueError(
            f'the answer holds {unread[0]}, which is not read; write places as {{"boxes": [x1, y1, x2, y2]}}'
        )
    if _BARE.fullmatch(body.strip()):
        return "spatial grounding", {"boxes": [float(figure) for figure in _NUMBER.findall(body)]}, BARE
    fences = _FENCE.findall(body)
    if (found := _of_json(answer_inside(fences[-1] if fences else body))) is not None:
        return found
    beside, lists = _LIST.sub("", body), [json.loads(text) for text in _LIST.findall(body)]
    return _of_json(lists) if lists and len(body) <= PROSE and not _NUMBER.search(beside) else None


def _of_json(value: Any) -> Found | None:
    if isinstance(value, list) and len(value) == 2 and all(isinstance(one, str) for one in value):
        # two right answers
        return None
    value = _figures(value)
    if is_box(value):
        return "spatial grounding", {"boxes": value}, LISTED
    if isinstance(value, list) and value and all(is_box(box) for box in value):
        boxes = [{"bbox_2d": box, "label": ""} for box in value]
        return _of_number(boxes), boxes, LISTED
    if isinstance(value, list) and value and all(isinstance(one, dict) for one in value):
        return _of_objects(value)
    if not isinstance(value, dict):
        return _of_pairs(value)
    arguments = value.get("arguments", value)
    if isinstance(arguments, dict) and is_box(arguments.get("coordinate"), 2):
        return "point grounding", {"points": [arguments["coordinate"]]}, OWN
    keys = set(value)
    if kind := _WHOLE.get(frozenset(keys)):
        return kind, value, OWN
    if keys == {"boxes"}:
        inner = value["boxes"]
        if isinstance(inner, dict):
            return "tracking", value, OWN
        found = _of_json(inner)
        return None if found is None else (found[0], found[1], OWN)
    return _of_json([value])


def _of_objects(value: list[dict[str, Any]]) -> Found | None:
    points = [_field(one, "point_2d", "point") for one in value]
    if all(is_box(point, 2) for point in points):
        return "point grounding", {"points": points}, OWN
    found = [_field(one, "bbox_2d", "bbox", "box", "boxes") for one in value]
    found = [one[0] if isinstance(one, list) and len(one) == 1 else one for one in found]
    if not all(is_box(box) for box in found):
        return None
    labels = [str(_field(one, "label", "category", "name") or "") for one in value]
    boxes = [{"bbox_2d": box, "label": label} for box, label in zip(found, labels, strict=True)]
    return _of_number(boxes), boxes, None


def _of_pairs(value: Any) -> Found | None:
    """Read lists of two numbers: several are points, but one may be an interval."""
    pairs = [value] if is_box(value, 2) else value
    if not isinstance(pairs, list) or not pairs or not all(is_box(pair, 2) for pair in pairs):
        return None
    figures = numbers(pairs)
    if not LIKELY_POINT < max(figures) <= GRID or min(figures) < 0:
        return None
    if pairs != value:
        options = "--default problem_type='point grounding', 'temporal grounding' or math"
        raise ValueError(f"the answer {value} may be a point, a span of time or an interval; say which: {options}")
    return "point grounding", {"points": pairs}, LISTED


def _of_number(boxes: list[Any]) -> str:
    return "spatial grounding" if len(boxes) == 1 else "detection"


def _field(one: dict[str, Any], *names: str) -> Any:
    return _figures(next((one[name] for name in names if name in one), None))


def _figures(value: Any) -> Any:
    """Convert texts of numbers in lists to numbers."""
    if isinstance(value, list):
        value = [_figures(listed(item)) for item in value]
        if len(value) in (2, 4) and all(isinstance(item, str) and _NUMBER.fullmatch(item.strip()) for item in value):
            return [float(item) for item in value]
    return value
