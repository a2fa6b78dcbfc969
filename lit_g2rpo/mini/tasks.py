"""The six mini tasks: endless prompts with checkable answers, a few of them with an imperfect demonstration."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from lit_g2rpo.data.messages import render
from lit_g2rpo.experience import Prompt
from lit_g2rpo.mini import annotator
from lit_g2rpo.mini.images import Canvas
from lit_g2rpo.mini.scenes import SCENES
from lit_g2rpo.mini.sources import SPLITS

TASKS = tuple(SCENES)
TEMPLATE = """\
{{ question }} Reply with <{{ thinking_tag }}></{{ thinking_tag }}><{{ answer_tag }}></{{ answer_tag }}>.
{% for option in options %}
{{ option }}
{% endfor %}
"""
"""The wording that the embedded policy was trained with; its folder has it as ``prompt_template.jinja``."""


@dataclass(slots=True, frozen=True)
class MiniSample:
    """One generated sample.

    Args:
        id: task, split, seed and index.
        image: RGB, 64 x 64 pixels.
        question: question without instruction and options.
        options: option texts, empty unless the question is multiple choice.
        answer: true answer, without tags.
        solution: completion of a careful annotator.
        demonstration: completion of the imperfect annotator.
    """

    task: str
    id: str
    image: Image.Image
    question: str
    options: tuple[str, ...]
    problem_type: str
    answer: str
    solution: str
    demonstration: str


def make_sample(task: str, index: int, split: str, seed: int) -> MiniSample:
    """Generate a sample; the same arguments always give the same one.

    Args:
        index: position in the stream, from 0.
        split: `train` or `validation`; decides which source images may appear.
        seed: seed of the stream.

    Raises:
        ValueError: if the task or the split is unknown.
    """
    if task not in SCENES:
        raise ValueError(f"unknown mini task {task!r}: choose one of {', '.join(TASKS)}")
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: choose one of {SPLITS}")
    rng = np.random.default_rng([seed, TASKS.index(task), SPLITS.index(split), index])
    problem_type, draw = SCENES[task]
    scene = draw(Canvas(rng, split))
    solution = annotator.write(task, scene.facts)
    return MiniSample(
        task=task,
        id=f"{task}-{split}-{seed}-{index}",
        image=scene.canvas.image(),
        question=scene.question,
        options=scene.options,
        problem_type=problem_type,
        answer=solution.split("<answer>")[1].removesuffix("</answer>"),
        solution=solution,
        demonstration=annotator.write(task, annotator.misread(task, scene.facts, rng)),
    )


def prompt_text(question: str, options: tuple[str, ...]) -> str:
    """Join question, instruction and options in the paper's order."""
    return render(TEMPLATE, question=question, options=lettered(options), thinking_tag="thinking", answer_tag="answer")


def lettered(options: tuple[str, ...]) -> list[str]:
    """Put letters before the texts of options."""
    return [f"{letter}. {text}" for letter, text in zip(annotator.LETTERS, options, strict=False)]


def to_prompt(sample: MiniSample, demonstration: str | None = None) -> Prompt:
    """Turn a sample into the prompt that the trainer reads.

    Args:
        demonstration: completion to imitate, if any.
    """
    text = prompt_text(sample.question, sample.options)
    return Prompt(
        id=sample.id,
        task=sample.task,
        problem_type=sample.problem_type,
        messages=[{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}],
        images=[sample.image],
        sample={
            "problem_type": sample.problem_type,
            "task_type": sample.task,
            "answer": f"<answer>{sample.answer}</answer>",
            "options": lettered(sample.options),
        },
        demonstration=demonstration,
    )
