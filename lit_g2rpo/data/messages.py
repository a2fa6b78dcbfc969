"""The wording of prompts: the question, and instructions to put reasoning and answer in tags."""

import difflib
import re
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from lit_g2rpo.errors import UserError
from lit_g2rpo.rewards.problem_types import problem_type_named
from lit_g2rpo.rewards.rows.canonical import IMAGE, VIDEO

if TYPE_CHECKING:
    from jinja2 import Template

# The order of the parts follows the released code of OpenVLThinkerV2; the wording is our own.
TEMPLATE = (
    "{{ question }}\n"
    "Reason about the question first and write your reasoning between <{{ thinking_tag }}> and </{{ thinking_tag }}>. "
    "Then write the answer alone between <{{ answer_tag }}> and </{{ answer_tag }}>. "
    'Where a box is asked for, give it as JSON with the key "boxes".\n'
    "{% if options %}\n"
    "Options:\n"
    "{% for option in options %}\n"
    "{{ option }}\n"
    "{% endfor %}\n"
    "{% endif %}\n"
    "Keep to this form: <{{ thinking_tag }}>your reasoning</{{ thinking_tag }}>"
    "<{{ answer_tag }}>your answer</{{ answer_tag }}>.\n"
    "{{ answer_form }}"
)
"""The default wording, as Jinja text."""
VALUES = ("question", "options", "answer_form", "task", "problem_type", "thinking_tag", "answer_tag")
"""Variables that a template may use."""


def build_messages(
    question: str,
    options: Sequence[str],
    problem_type: str,
    n_images: int,
    *,
    template: str = TEMPLATE,
    task: str = "",
    thinking_tag: str = "thinking",
    answer_tag: str = "answer",
    earlier: Sequence[tuple[str, str]] = (),
    n_videos: int = 0,
) -> list[dict[str, Any]]:
    """Build the chat messages of a prompt: the row's earlier turns, and a user turn that asks the question.

    Args:
        question: the question, with ``<image>`` in the place of each image and ``<video>`` in that of each video.
        options: the options, each ``"A. text"``; empty if it is not multiple choice.
        problem_type: form of the answer, by short name or import path.
        n_images: number of images, equal to the number of their places, including earlier turns.
        template: wording of the user turn after its last image or video, as Jinja text.
        task: name of the task, for the template.
        earlier: role and text of the turns before the question.
        n_videos: number of videos, equal to the number of their places, including earlier turns.

    Returns:
        The messages, whose content is a list of text, image and video items.

    Raises:
        UserError: if places do not match images and videos, or the problem type is unknown.
    """
    texts = question, *(text for _, text in earlier)
    for mark, number in ((IMAGE, n_images), (VIDEO, n_videos)):
        if (places := sum(text.count(mark) for text in texts)) != number:
            raise UserError(f"{places} {mark} places for {number} {mark[1:-1]}s; there must be one each")
    turns = [{"role": role, "content": _items(text)} for role, text in earlier]
    last = re.split(f"{IMAGE}|{VIDEO}", question)[-1]
    content = _items(question.removesuffix(last)) if len(last) < len(question) else []
    text = render(
        template,
        question=last.strip(),
        options=options,
        answer_form=answer_form(problem_type, thinking_tag, answer_tag),
        task=task,
        problem_type=problem_type,
        thinking_tag=thinking_tag,
        answer_tag=answer_tag,
    )
    content.append({"type": "text", "text": text})
    return [*turns, {"role": "user", "content": content}]


def _items(text: str) -> list[dict[str, Any]]:
    """Split a text into text, image and video items."""
    pieces = (piece.strip() for piece in re.split(f"({IMAGE}|{VIDEO})", text))
    kinds = {IMAGE: "image", VIDEO: "video"}
    return [{"type": kinds[piece]} if piece in kinds else {"type": "text", "text": piece} for piece in pieces if piece]


def answer_form(problem_type: str, thinking_tag: str = "thinking", answer_tag: str = "answer") -> str:
    """Describe what an answer to a problem type must look like, with an example in the tags of the run.

    Raises:
        UserError: if the problem type is unknown.
    """
    text = problem_type_named(problem_type).answer_form
    for own, wanted in (("thinking", thinking_tag), ("answer", answer_tag)):
        text = text.replace(f"<{own}>", f"<{wanted}>").replace(f"</{own}>", f"</{wanted}>")
    return text


def render(template: str, **values: Any) -> str:
    """Render a template; values that it uses but that are not given are empty."""
    return _compiled(template).render(dict.fromkeys(VALUES, "") | values).strip()


def check_template(template: str, where: str) -> str:
    """Refuse a template that cannot word a question.

    Args:
        where: the config key or file that holds it, for messages.

    Returns:
        The template.

    Raises:
        UserError: if it is not valid Jinja text, uses a value that does not exist, or leaves out the question.
    """
    from jinja2 import TemplateError, meta

    if not isinstance(template, str):
        raise UserError(f"{where} is {template!r}; give the wording as text, with {{{{ question }}}} in it")
    try:
        compiled = _compiled(template)
        used = meta.find_undeclared_variables(compiled.environment.parse(template))
        for name in sorted(used - set(VALUES)):
            near = difflib.get_close_matches(name, VALUES, n=1)
            hint = f"did you mean {near[0]}?" if near else f"a template may use {', '.join(VALUES)}"
            raise UserError(f"{where} uses {name!r}, which no prompt has; {hint}")
        if "question" not in used:
            raise UserError(f"{where} has no {{{{ question }}}}, so that no prompt would ask anything; add it")
        if IMAGE in template:
            raise UserError(f"{where} has {IMAGE}; leave it out: images stand where the question has them")
        for options in ([], ["A. yes", "B. no"]):
            render(template, question="?", options=options)
    except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as error:
        line = getattr(error, "lineno", None)
        raise UserError(f"{where} is no Jinja template{f', line {line}' if line else ''}: {error}") from None
    return template


@cache
def _compiled(template: str) -> "Template":
    from jinja2 import StrictUndefined
    from jinja2.sandbox import SandboxedEnvironment

    return SandboxedEnvironment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True).from_string(template)
