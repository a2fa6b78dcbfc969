"""Tasks: the unit of shaping, found by name, and the prompt that asks for reasoning and answer in tags."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lit_g2rpo.errors import UserError
from lit_g2rpo.objectives.shaping import EntropyBand, LengthBand
from lit_g2rpo.rewards import PROBLEM_TYPES

IMAGE_PLACE = "<image>"

FORMAT = (
    "Reason about the question first and write your reasoning between <thinking> and </thinking>. Then write the "
    'answer alone between <answer> and </answer>. Where a box is asked for, give it as JSON with the key "boxes".'
)
REMINDER = "Keep to this form: <thinking>your reasoning</thinking><answer>your answer</answer>."
ANSWER_FORMS = {
    "multiple choice": "Give only the letter of the right option, for example <answer>A</answer>.",
    "numerical": "Give only a number, for example <answer>3.14</answer>.",
    "regression": "Give only a number, your best estimate, for example <answer>42.7</answer>.",
    "OCR": "Give only the text you read, for example <answer>Hello world</answer>.",
    "math": "Give only the final result, as a number or in LaTeX, for example <answer>\\frac{1}{2}</answer>.",
    "spatial grounding": (
        "Give only the box, on a grid from 0 to 1000 in both directions, for example "
        '<answer>{"boxes": [35, 227, 437, 932]}</answer>.'
    ),
}


@dataclass(slots=True)
class Task:
    """A named family of prompts with its shaping bands; callbacks may move the bands during a run.

    Args:
        name: the name data rows use.
        length: length band, tokens; None exempts the task from length shaping.
        entropy: entropy band, nats; None exempts the task from entropy shaping.
    """

    name: str
    length: LengthBand | None = None
    entropy: EntropyBand | None = None


# Length thresholds: multiples of the 8B model's mean completion length per task before training, 4096 at most.
# Entropy thresholds: the released code's, the same for every task.
TASKS = {
    name: Task(name, LengthBand(*length), EntropyBand(0.2, 0.6))
    for name, length in {
        "spatial_grounding": (12, 31, 75, 250),
        "spatial_reasoning": (100, 370, 1230, 3280),
        "general_vqa_science_stem": (240, 1140, 2400, 4096),
        "math_reasoning": (155, 750, 1560, 4096),
        "chart_figure_qa": (75, 270, 900, 2400),
        "ocr": (10, 26, 62, 210),
    }.items()
}


def task(name: str) -> Task:
    """Finds one of the paper's tasks.

    Args:
        name: its name.

    Returns:
        A copy, so that moving its bands leaves the registry alone.

    Raises:
        UserError: if there is no such task.

    Source: OpenVLThinkerV2 (arXiv 2604.08539) section 2.3; thresholds are not published, see above.
    """
    if name not in TASKS:
        raise UserError(f"unknown task {name!r}; known: {', '.join(TASKS)}")
    return replace(TASKS[name])


def paper_tasks() -> dict[str, Task]:
    """Returns copies of the paper's six tasks by name."""
    return {name: task(name) for name in TASKS}


def with_bands(
    tasks: Mapping[str, Task], overrides: Mapping[str, Mapping[str, Sequence[float] | None] | None]
) -> dict[str, Task]:
    """Changes bands of tasks and adds tasks.

    Args:
        tasks: tasks by name.
        overrides: per task name ``length`` (four thresholds, tokens) and ``entropy`` (two, nats), None to exempt the
            task; a name not in ``tasks`` becomes a new task.

    Returns:
        The tasks by name; ``tasks`` is left alone.

    Raises:
        UserError: for an unknown key, or thresholds of the wrong number or order.
    """
    result = {name: replace(known) for name, known in tasks.items()}
    for name, bands in overrides.items():
        changed = result.setdefault(name, Task(name))
        for key, values in (bands or {}).items():
            if key not in ("length", "entropy"):
                raise UserError(f"data.tasks.{name}.{key}: unknown key; known: length, entropy")
            if values is None:
                setattr(changed, key, None)
                continue
            kind, count = (LengthBand, 4) if key == "length" else (EntropyBand, 2)
            if len(values) != count:
                raise UserError(f"data.tasks.{name}.{key} is {list(values)}; give {count} thresholds, ascending")
            setattr(changed, key, kind(*map(float, values)))
    return result


def instruction(problem_type: str) -> str:
    """Writes the closing request of a prompt: the tags once more, and the form of the answer with an example.

    Args:
        problem_type: answer format.

    Returns:
        The request.

    Raises:
        UserError: if the problem type is unknown.

    Source: order of parts as in the released code of OpenVLThinkerV2; the words are our own.
    """
    if problem_type not in ANSWER_FORMS:
        raise UserError(f"unknown problem type {problem_type!r}; known: {', '.join(PROBLEM_TYPES)}")
    return f"{REMINDER}\n{ANSWER_FORMS[problem_type]}"


def build_messages(question: str, options: Sequence[str], problem_type: str, n_images: int) -> list[dict[str, Any]]:
    """Builds the chat of a prompt: one user turn, no system prompt.

    Args:
        question: the question, with ``<image>`` where an image stands.
        options: the options, each ``"A. text"``; empty if there is no choice.
        problem_type: answer format.
        n_images: number of images, the number of their places.

    Returns:
        The messages, their content a list of text and image items.

    Raises:
        UserError: if the places do not match the images, or the problem type is unknown.
    """
    pieces = question.split(IMAGE_PLACE)
    if len(pieces) - 1 != n_images:
        raise UserError(f"{len(pieces) - 1} {IMAGE_PLACE} places for {n_images} images; there must be one each")
    content: list[dict[str, Any]] = []
    for piece in pieces[:-1]:
        if piece.strip():
            content.append({"type": "text", "text": piece.strip()})
        content.append({"type": "image"})
    parts = [pieces[-1].strip(), FORMAT]
    if options:
        parts.append("\n".join(["Options:", *options]))
    parts.append(instruction(problem_type))
    content.append({"type": "text", "text": "\n".join(part for part in parts if part)})
    return [{"role": "user", "content": content}]
