"""Annotator that writes completions from facts, and makes human-like errors in the demonstrations.

The errors are in content, and no word distinguishes a wrong demonstration from a right one, so a policy that imitates
them imitates the errors too.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from lit_g2rpo.mini.images import SIDE
from lit_g2rpo.mini.scenes import DIRECTIONS, PLACES

LETTERS = "ABCD"
SLIP = 0.6
LOOSEST = 6


def box_answer(edges: Iterable[int]) -> str:
    """Write the edges of a box, in pixels, on the 0-1000 scale of the answers."""
    return '{"boxes": [' + ", ".join(str(round(edge * 1000 / SIDE)) for edge in edges) + "]}"


def answer(task: str, facts: tuple[int, ...]) -> str:
    """Write the answer that follows from facts, in the order of the scene, without tags."""
    if task == "spatial_grounding":
        return box_answer(facts[1:])
    if task == "spatial_reasoning":
        return LETTERS[facts[0]]
    if task == "general_vqa_science_stem":
        return LETTERS[facts[0] - 1]
    if task == "math_reasoning":
        return str(2 * facts[2])
    if task == "chart_figure_qa":
        return str(facts[1 + facts[0]])
    return "".join(map(str, facts))


def reasoning(task: str, facts: tuple[int, ...]) -> str:
    """Write the reasoning that leads from facts to the answer, without tags."""
    if task == "spatial_grounding":
        return f"a {facts[0]}"
    if task == "spatial_reasoning":
        return DIRECTIONS[facts[0]]
    if task == "general_vqa_science_stem":
        return f"{facts[0]} digits"
    if task == "math_reasoning":
        first, second, total = facts
        return f"{first}+{second}={total};{total}+{total}={2 * total}"
    if task == "chart_figure_qa":
        return f"{PLACES[facts[0]]} bar"
    return f"{len(facts)} digits"


def write(task: str, facts: tuple[int, ...]) -> str:
    """Write the full completion that follows from facts.

    Args:
        facts: facts in the order of the scene; for the math task the sum is appended if it is missing.
    """
    if task == "math_reasoning" and len(facts) == 2:
        facts = (*facts, sum(facts))
    return f"<thinking>{reasoning(task, facts)}</thinking><answer>{answer(task, facts)}</answer>"


def misread(task: str, facts: tuple[int, ...], rng: np.random.Generator) -> tuple[int, ...]:
    """Change facts the way the annotator gets them wrong.

    Args:
        facts: true facts in the order of the scene.
        rng: source of the slips.
    """
    if task == "spatial_grounding":
        loose = rng.integers(1, LOOSEST + 1, 4)
        left, top, right, bottom = (np.array(facts[1:]) + loose * [-1, -1, 1, 1]).clip(0, SIDE)
        return facts[0], int(left), int(top), int(right), int(bottom)
    slipped = rng.random() < SLIP
    if task == "math_reasoning":
        total = sum(facts)
        return (*facts, total - 10 if slipped and total >= 10 else total)
    if not slipped:
        return facts
    if task == "spatial_reasoning":
        return (1 - facts[0],) if facts[0] < 2 else facts
    if task == "general_vqa_science_stem":
        return (max(facts[0] - 1, 1),)
    if task == "chart_figure_qa":
        return facts[0], *(max(5 * round(value / 5), 5) for value in facts[1:])
    return facts[:-1] if len(facts) == 4 else facts
