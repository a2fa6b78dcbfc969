"""The rule that turns a measurement into bands, against numbers by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_g2rpo.errors import UserError
from lit_g2rpo.objectives.calibration import (
    FEWEST_CORRECT,
    Measured,
    propose_entropy,
    propose_length,
    quantile,
    style_of,
)
from lit_g2rpo.objectives.shaping import EntropyBand, LengthBand
from lit_g2rpo.rewards import problem_type_named
from lit_g2rpo.tasks import TASKS


def measured(lengths, right=(), entropies=None):
    """Completions of which those at the indices ``right`` are correct."""
    size = len(lengths)
    accuracies = [0.5 if i in right else 0.49 for i in range(size)]
    return Measured(lengths, entropies or [0.4] * size, accuracies, [False] * size, ["math"] * size)


@pytest.mark.parametrize(
    ("style", "longest", "band"),
    [
        ("reasoning", 4096, (25, 120, 250, 4096)),
        ("hybrid", 4096, (25, 90, 300, 800)),
        ("vision", 4096, (10, 25, 60, 200)),
        ("reasoning", 150, (25, 120, 150, 150)),
        ("reasoning", 110, (25, 110, 110, 110)),
        ("hybrid", 250, (25, 90, 250, 250)),
    ],
)
def test_multiples_of_the_mean_by_hand(style, longest, band):
    assert propose_length(measured([60, 140] * 10), style, longest) == LengthBand(*band)


def test_the_plateau_is_within_reach_of_correct_completions():
    lengths = [100] * 25 + [80, 90, 110, 120, 100] * 5
    right = range(25, 50)
    # correct lengths are 80, 90, 100, 110, 120, five each: quartiles 90 and 110
    assert propose_length(measured(lengths, right), "vision", 4096) == LengthBand(10, 25, 90, 200)
    assert propose_length(measured(lengths, right), "reasoning", 4096) == LengthBand(25, 110, 250, 4096)
    short = [400] * 25 + [10] * 25
    assert propose_length(measured(short, right), "reasoning", 4096) == LengthBand(10, 10, 512, 4096)
    few = range(FEWEST_CORRECT - 1)
    assert propose_length(measured(lengths, few), "vision", 4096) == LengthBand(10, 25, 60, 200)


@given(
    st.lists(st.integers(1, 60), min_size=FEWEST_CORRECT, max_size=60),
    st.sampled_from(["reasoning", "hybrid", "vision"]),
)
def test_a_quarter_of_correct_completions_is_past_each_edge(lengths, style):
    band = propose_length(measured(lengths, range(len(lengths))), style, 60)
    # half a token of rounding on either side
    assert sum(length >= band.low - 0.5 for length in lengths) >= len(lengths) / 4
    assert sum(length <= band.high + 0.5 for length in lengths) >= len(lengths) / 4
    assert band.maximum <= 60


def test_entropy_is_a_mean_over_tokens():
    assert propose_entropy(measured([1, 3], entropies=[1.0, 0.2])) == EntropyBand(0.2, 0.6)


def test_the_entropy_band_is_as_wide_as_correct_completions():
    entropies = [0.4] * 60 + [0.1, 0.15, 0.4, 0.65, 0.7] * 5
    right = range(60, 85)
    assert propose_entropy(measured([10] * 85, right, entropies)) == EntropyBand(0.15, 0.65)
    assert propose_entropy(measured([10] * 85, range(5), entropies)) == EntropyBand(0.2, 0.6)


def test_quantiles_equal_numpy():
    values = np.random.default_rng(0).normal(size=17).tolist()
    for q in (0, 0.1, 0.25, 0.5, 0.9, 1):
        assert quantile(values, q) == pytest.approx(np.quantile(values, q))
    assert quantile([3.0], 0.9) == 3.0


@pytest.mark.parametrize(
    ("task", "types", "given_styles", "style"),
    [
        ("ocr", ["math"], {}, "vision"),
        ("ocr", ["math"], {"ocr": "reasoning"}, "reasoning"),
        ("mine", ["OCR", "OCR", "math"], {}, "vision"),
        ("mine", ["counting"], {"other": "vision"}, "hybrid"),
        ("mine", ["multiple choice"], {}, "reasoning"),
    ],
)
def test_the_style_of_a_task(task, types, given_styles, style):
    inferred = problem_type_named(Measured(problem_types=types).usual_problem_type).style
    assert style_of(task, inferred, given_styles) == style


def test_every_task_of_the_paper_has_a_style():
    assert {style_of(name, "reasoning", {}) for name in TASKS} == {"reasoning", "hybrid", "vision"}


def test_an_unknown_style_is_refused():
    with pytest.raises(UserError, match=r"--styles.ocr is 'long'; it must be reasoning, hybrid or vision"):
        style_of("ocr", "reasoning", {"ocr": "long"})
