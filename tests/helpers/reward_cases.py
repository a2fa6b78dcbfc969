"""One gold answer for every problem type, and a function that scores it."""

from typing import Any

from lit_g2rpo.rewards import RewardConfig, RewardResult, score

GOLD: dict[str, str] = {
    "multiple choice": "B",
    "numerical": "40.33",
    "regression": "2.5",
    "OCR": "The  quick brown fox",
    "math": "\\frac{1}{2}",
    "spatial grounding": '{"boxes": [100, 100, 300, 300]}',
    "document": '["12 May 1998", "May 12, 1998"]',
    "chart": "14.2%",
    "counting": "7",
    "point grounding": '{"polygon": [[100, 100], [300, 100], [300, 300]]}',
    "GUI grounding": '{"boxes": [100, 100, 300, 200]}',
    "detection": (
        '[{"bbox_2d": [100, 100, 300, 300], "label": "dog"}, {"bbox_2d": [500, 500, 900, 900], "label": "cat"}]'
    ),
    "segmentation": (
        '{"boxes": [100, 100, 300, 300], "positive_points": [[150, 150], [200, 200], [250, 250]], '
        '"negative_points": [[50, 50], [400, 400], [350, 100]]}'
    ),
    "temporal grounding": '{"time": [10, 20]}',
    "spatial-temporal grounding": '{"time": [8.5, 10.5], "boxes": {"9": [100, 100, 300, 300], "10": [0, 0, 50, 50]}}',
    "tracking": '{"boxes": {"1": [100, 100, 300, 300], "2": [0, 0, 50, 50]}}',
    "open-ended": "A dog sleeps in the sun.",
    "scientific": "9.81",
    "code": "print(1)",
}
SCORED = [kind for kind in GOLD if kind != "code"]
LENIENT = RewardConfig(open_ended="rouge_l")


def sample(problem_type: str, answer: str | None = None) -> dict[str, Any]:
    options = ["A. cat", "B. dog", "C. cow"] if problem_type == "multiple choice" else []
    return {
        "problem_type": problem_type,
        "answer": GOLD[problem_type] if answer is None else answer,
        "options": options,
    }


def wrapped(answer: str) -> str:
    return f"<thinking>so it is</thinking>\n<answer>{answer}</answer>"


def result(problem_type: str, answer: str, gold: str | None = None, config: RewardConfig = LENIENT) -> RewardResult:
    return score(wrapped(answer), sample(problem_type, gold), config)


def accuracy(problem_type: str, answer: str, gold: str | None = None, config: RewardConfig = LENIENT) -> float:
    return result(problem_type, answer, gold, config).accuracy
