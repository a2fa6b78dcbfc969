"""The wording of prompts: the question, and the request for reasoning and answer in tags."""

from collections.abc import Sequence
from typing import Any

from lit_g2rpo.errors import UserError
from lit_g2rpo.rewards.problem_types import problem_type_named
from lit_g2rpo.rewards.rows.canonical import IMAGE

FORMAT = (
    "Reason about the question first and write your reasoning between <thinking> and </thinking>. Then write the "
    'answer alone between <answer> and </answer>. Where a box is asked for, give it as JSON with the key "boxes".'
)
REMINDER = "Keep to this form: <thinking>your reasoning</thinking><answer>your answer</answer>."


def build_messages(
    question: str,
    options: Sequence[str],
    problem_type: str,
    n_images: int,
    *,
    thinking_tag: str = "thinking",
    answer_tag: str = "answer",
    earlier: Sequence[tuple[str, str]] = (),
) -> list[dict[str, Any]]:
    """Build the chat of a prompt: the turns that the row has, and a user turn that asks the question.

    Args:
        question: the question, with ``<image>`` where an image stands.
        options: the options, each ``"A. text"``; empty if there is no choice.
        problem_type: form of the answer, by short name or import path.
        n_images: number of images, the number of their places, earlier turns included.
        earlier: role and text of the turns before the question.

    Returns:
        The messages, their content a list of text and image items.

    Raises:
        UserError: if the places do not match the images, or the problem type is unknown.
    """
    places = sum(text.count(IMAGE) for text in (question, *(text for _, text in earlier)))
    if places != n_images:
        raise UserError(f"{places} {IMAGE} places for {n_images} images; there must be one each")
    turns = [{"role": role, "content": _items(text)} for role, text in earlier]
    before, _, last = question.rpartition(IMAGE)
    content = _items(before + IMAGE) if len(last) < len(question) else []
    parts = [last.strip(), with_tags(FORMAT, thinking_tag, answer_tag)]
    if options:
        parts.append("\n".join(["Options:", *options]))
    parts.append(closing_request(problem_type, thinking_tag=thinking_tag, answer_tag=answer_tag))
    content.append({"type": "text", "text": "\n".join(part for part in parts if part)})
    return [*turns, {"role": "user", "content": content}]


def _items(text: str) -> list[dict[str, Any]]:
    """Cut a text into items of text and images."""
    pieces = [piece.strip() for piece in text.split(IMAGE)]
    items: list[dict[str, Any]] = [{"type": "text", "text": pieces[0]}] if pieces[0] else []
    for piece in pieces[1:]:
        items.append({"type": "image"})
        if piece:
            items.append({"type": "text", "text": piece})
    return items


def closing_request(problem_type: str, *, thinking_tag: str = "thinking", answer_tag: str = "answer") -> str:
    """Write the end of a prompt: the tags once more, and the form of the answer with an example.

    Raises:
        UserError: if the problem type is unknown.

    Source: order of parts as in the released code of OpenVLThinkerV2; the words are our own.
    """
    return with_tags(f"{REMINDER}\n{problem_type_named(problem_type).answer_form}", thinking_tag, answer_tag)


def with_tags(text: str, thinking_tag: str, answer_tag: str) -> str:
    """Put the tags of a run in the place of ``thinking`` and ``answer``."""
    for own, wanted in (("thinking", thinking_tag), ("answer", answer_tag)):
        text = text.replace(f"<{own}>", f"<{wanted}>").replace(f"</{own}>", f"</{wanted}>")
    return text
