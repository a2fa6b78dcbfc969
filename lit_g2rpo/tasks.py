"""Tasks: the unit of shaping, found by name, and the prompt that asks for reasoning and answer in tags."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lit_g2rpo.errors import UserError
from lit_g2rpo.objectives.relative_bands import RelativeBand, length_band
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
    "document": "Give only the answer, as short as the document has it, for example <answer>12 May 1998</answer>.",
    "chart": "Give only a number or a few words, or the letter of the right option, for example <answer>14.2</answer>.",
    "counting": "Give only how many there are, in digits, for example <answer>7</answer>.",
    "point grounding": (
        "Give only the points as JSON, on a grid from 0 to 1000 in both directions, for example "
        '<answer>[{"point_2d": [412, 603]}]</answer>.'
    ),
    "GUI grounding": (
        "Give only the one point to click as JSON, on a grid from 0 to 1000 in both directions, for example "
        '<answer>{"point_2d": [412, 603]}</answer>.'
    ),
    "detection": (
        "Give only the boxes and their labels as JSON, on a grid from 0 to 1000 in both directions, and an empty list "
        'if there are none, for example <answer>[{"bbox_2d": [35, 227, 437, 932], "label": "dog"}]</answer>.'
    ),
    "segmentation": (
        "Give only JSON, on a grid from 0 to 1000 in both directions: the object's box, three points on it and three "
        'points off it, for a video also the second at which it is seen best as "time", for example '
        '<answer>{"boxes": [35, 227, 437, 932], "positive_points": [[210, 400], [250, 610], [300, 800]], '
        '"negative_points": [[20, 100], [500, 300], [480, 950]]}</answer>.'
    ),
    "temporal grounding": (
        'Give only start and end in seconds as JSON, for example <answer>{"time": [12.3, 25.7]}</answer>.'
    ),
    "spatial-temporal grounding": (
        "Give only start and end in seconds, and one box for every whole second between them on a grid from 0 to 1000 "
        'in both directions, as JSON, for example <answer>{"time": [8.1, 10.4], "boxes": {"9": [317, 422, 582, 997], '
        '"10": [332, 175, 442, 369]}}</answer>.'
    ),
    "tracking": (
        "Give only one box for every second, on a grid from 0 to 1000 in both directions, as JSON, for example "
        '<answer>{"boxes": {"1": [405, 230, 654, 463], "2": [435, 223, 678, 446]}}</answer>.'
    ),
    "open-ended": "Give only your answer, in a sentence or two, for example <answer>A dog sleeps in the sun.</answer>.",
    "scientific": (
        "Give only the letter of the right option, or without options the final result as a number or in LaTeX, for "
        "example <answer>9.81</answer>."
    ),
    "code": "Give only the program, for example <answer>print(sum(range(10)))</answer>.",
}


@dataclass(slots=True)
class Task:
    """A named family of prompts with its shaping bands; callbacks may move the bands during a run.

    Args:
        name: the name data rows use.
        length: length band, tokens; None exempts the task from length shaping.
        entropy: entropy band, nats; None exempts the task from entropy shaping.
        reward: import path of a function that scores the task instead of the reward of its problem types, such as
            ``my_module.my_function``; None for those.
        relative_length: length band relative to the reference answer, which then takes the place of ``length``; or to
            the starting mean, which ``length`` follows from once `LengthCurriculum` has measured it.
        entropy_scale: factor on the objective's entropy coefficient for this task.
    """

    name: str
    length: LengthBand | None = None
    entropy: EntropyBand | None = None
    reward: str | None = None
    relative_length: RelativeBand | None = None
    entropy_scale: float = 1.0


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
    """Find one of the paper's tasks.

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
    """Return copies of the paper's six tasks by name."""
    return {name: task(name) for name in TASKS}


def with_bands(
    tasks: Mapping[str, Task], overrides: Mapping[str, Mapping[str, Sequence[float | str] | str | None] | None]
) -> dict[str, Task]:
    """Change bands and rewards of tasks and add tasks.

    Args:
        tasks: tasks by name.
        overrides: per task name ``length`` (four thresholds, see `length_band`) and ``entropy`` (two, nats), None to
            exempt the task, and ``reward`` (import path of a function); a name not in ``tasks`` becomes a new task.

    Returns:
        The tasks by name; ``tasks`` is left alone.

    Raises:
        UserError: for an unknown key, thresholds of the wrong number or order, or a reward that is no import path.
    """
    result = {name: replace(known) for name, known in tasks.items()}
    for name, bands in overrides.items():
        changed = result.setdefault(name, Task(name))
        for key, values in (bands or {}).items():
            if key not in ("length", "entropy", "reward"):
                raise UserError(f"data.tasks.{name}.{key}: unknown key; known: length, entropy, reward")
            if key == "reward" and values is not None and not (isinstance(values, str) and values):
                raise UserError(f"data.tasks.{name}.reward is {values!r}; give an import path: my_module.my_function")
            if key == "length":
                changed.length = changed.relative_length = None
            if key == "reward" or values is None:
                setattr(changed, key, values)
                continue
            try:
                band = length_band(values) if key == "length" else entropy_band(values)
            except UserError as error:
                shown = values if isinstance(values, str) else list(values)
                raise UserError(f"data.tasks.{name}.{key} is {shown}: {error}") from None
            setattr(changed, "relative_length" if isinstance(band, RelativeBand) else key, band)
    return result


def entropy_band(values: Sequence[float | str]) -> EntropyBand:
    """Read two bounds of a configuration.

    Args:
        values: low and high, nats.

    Returns:
        The band.

    Raises:
        UserError: if there are not two numbers, ascending.
    """
    numbers = [float(value) for value in values if isinstance(value, int | float)]
    if len(numbers) != 2 or len(values) != 2:
        raise UserError("give 2 bounds in nats, ascending")
    return EntropyBand(*numbers)


def instruction(problem_type: str, *, thinking_tag: str = "thinking", answer_tag: str = "answer") -> str:
    """Write the closing request of a prompt: the tags once more, and the form of the answer with an example.

    Args:
        problem_type: answer format.
        thinking_tag: name of the tag around the reasoning.
        answer_tag: name of the tag around the answer.

    Returns:
        The request.

    Raises:
        UserError: if the problem type is unknown.

    Source: order of parts as in the released code of OpenVLThinkerV2; the words are our own.
    """
    if problem_type not in ANSWER_FORMS:
        raise UserError(f"unknown problem type {problem_type!r}; known: {', '.join(PROBLEM_TYPES)}")
    return _with_tags(f"{REMINDER}\n{ANSWER_FORMS[problem_type]}", thinking_tag, answer_tag)


def build_messages(
    question: str,
    options: Sequence[str],
    problem_type: str,
    n_images: int,
    *,
    thinking_tag: str = "thinking",
    answer_tag: str = "answer",
) -> list[dict[str, Any]]:
    """Build the chat of a prompt: one user turn, no system prompt.

    Args:
        question: the question, with ``<image>`` where an image stands.
        options: the options, each ``"A. text"``; empty if there is no choice.
        problem_type: answer format.
        n_images: number of images, the number of their places.
        thinking_tag: name of the tag around the reasoning.
        answer_tag: name of the tag around the answer.

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
    parts = [pieces[-1].strip(), _with_tags(FORMAT, thinking_tag, answer_tag)]
    if options:
        parts.append("\n".join(["Options:", *options]))
    parts.append(instruction(problem_type, thinking_tag=thinking_tag, answer_tag=answer_tag))
    content.append({"type": "text", "text": "\n".join(part for part in parts if part)})
    return [{"role": "user", "content": content}]


def _with_tags(text: str, thinking_tag: str, answer_tag: str) -> str:
    for own, wanted in (("thinking", thinking_tag), ("answer", answer_tag)):
        text = text.replace(f"<{own}>", f"<{wanted}>").replace(f"</{own}>", f"</{wanted}>")
    return text
