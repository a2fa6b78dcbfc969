"""Referring expressions in the format of RefCOCO's tables and of ``refer``: a box and a list of phrases for it."""

from collections.abc import Mapping
from typing import Any

from lit_g2rpo.rewards.answers.written import from_text
from lit_g2rpo.rewards.rows.scales import SizeNeeded, is_box, on_grid
from lit_g2rpo.rewards.rows.values import listed, missing, shown

QUESTION = "<image> Please provide the bounding box coordinate of the region this sentence describes: {}."
"""The question in OpenVLThinkerV2's own RefCOCO rows."""


def has_phrases(row: Mapping[str, Any]) -> bool:
    """Return whether a row has a list of phrases for one box, even if the box is invalid."""
    phrases = listed(from_text(row.get("answer")))
    kind = row.get("problem_type")
    if missing(phrases) and "bbox" in row and "problem" not in row and _sentences(row) is not None:
        return True
    return (
        isinstance(phrases, list)
        and all(isinstance(phrase, str) for phrase in phrases)
        and "problem" not in row
        and (kind == "spatial grounding" or (missing(kind) and not {"bbox", "segmentation"}.isdisjoint(row)))
    )


def phrase_rows(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Make one row per phrase, with the box on the 0..1000 grid as its answer.

    The question replaces the table's own, which asks for a caption.

    Args:
        row: a row with phrases in ``answer`` or ``sentences``, and ``bbox`` as ``[x, y, width, height]`` in pixels, and
            ``width`` and ``height`` of its image.

    Raises:
        SizeNeeded: if the size of the image is missing.
        ValueError: if there is no phrase, or no box inside the image.

    Source: lmms-eval's ``refcoco_bbox_rec`` tasks, which count one sample per phrase.
    """
    column = "sentences" if missing(row.get("answer")) else "answer"
    phrases = _sentences(row) if column == "sentences" else listed(from_text(row["answer"]))
    name = next((row[key] for key in ("id", "question_id", "ref_id") if key in row), None)
    if not phrases:
        raise ValueError(f"{column!r} lists no phrase; give at least one that describes the box")
    if blank := [number for number, phrase in enumerate(phrases, 1) if not phrase.strip(" .")]:
        raise ValueError(f"phrase {blank[0]} of {column!r} is empty; it must describe the box")
    rest = {key: value for key, value in row.items() if key not in ("question", "query", "sentences")}
    rest |= {"answer": {"boxes": _corners(row)}, "problem_type": "spatial grounding"}
    numbered = name is not None and len(phrases) > 1
    return [
        rest
        | {"problem": QUESTION.format(phrase.strip().rstrip("."))}
        | ({"id": f"{name}.{number}"} if numbered else {})
        for number, phrase in enumerate(phrases, 1)
    ]


def _sentences(row: Mapping[str, Any]) -> list[str] | None:
    """Read phrases in the format of ``refer``; None if there are none."""
    sentences = listed(from_text(row.get("sentences")))
    if not isinstance(sentences, list):
        return None
    texts = [one.get("sent", one.get("raw")) if isinstance(one, Mapping) else one for one in sentences]
    return texts if all(isinstance(text, str) for text in texts) else None


def _corners(row: Mapping[str, Any]) -> list[float]:
    box, form = listed(from_text(row.get("bbox"))), "it must be [x, y, width, height] in pixels"
    if missing(box):
        raise ValueError(f"'answer' lists phrases, but there is no 'bbox'; {form}")
    if not is_box(box) or not (box[2] > 0 and box[3] > 0):
        raise ValueError(f"'bbox' is {shown(box)}; {form}, with an area")
    if max(box) <= 1:
        raise ValueError(f"'bbox' {box} holds fractions of the image; {form}")
    x, y, width, height = box
    try:
        return on_grid([x, y, x + width, y + height], row)
    except SizeNeeded:
        raise
    except ValueError as reason:
        raise ValueError(f"{reason}; 'bbox' is {box}, and {form}") from None
