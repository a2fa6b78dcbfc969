"""Figures of benchmarks against plain averages."""

from lit_g2rpo.evaluation import BENCHMARKS
from lit_g2rpo.evaluation.figures import benchmark_figures

CHARTQA = [(1.0, "human"), (0.0, "human"), (None, "augmented"), (1.0, "augmented"), (1.0, "augmented")]
MMBENCH = [(1.0, "q1"), (1.0, "q2"), (0.0, "q1"), (1.0, "q2"), (1.0, "q3")]


def figures(name, column, rows):
    found = benchmark_figures(BENCHMARKS[name], [value for value, _ in rows], [{column: own} for _, own in rows])
    return {name: round(value, 6) for name, value in found.items()}


def test_means_of_a_benchmark_and_its_subsets():
    assert figures("chartqa", "type", CHARTQA) == {
        "relaxed accuracy": 0.6,
        "human": 0.5,
        "augmented": 0.666667,
        "mean over type": 0.583333,
    }


def test_a_subset_without_rows_has_no_figure():
    expected = {"relaxed accuracy": 0.5, "human": 0.5, "mean over type": 0.5}
    assert figures("chartqa", "type", CHARTQA[:2]) == expected


def test_recalls_of_boxes():
    found = figures("refcoco", "", [(0.5, ""), (0.7, ""), (0.29, ""), (None, "")])
    assert found == {"Acc@0.5": 0.5, "recall@0.3": 0.5, "recall@0.7": 0.25, "mean IoU": 0.3725}


def test_a_circular_question_counts_once_and_only_if_all_rotations_are_right():
    expected = {"circular accuracy": 0.666667, "vanilla accuracy": 0.8}
    assert figures("mmbench", "circular_id", MMBENCH) == expected
    assert figures("mmbench", "circular_id", MMBENCH[::-1]) == expected
