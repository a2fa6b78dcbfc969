"""Length trapezoid and entropy band."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lit_g2rpo.errors import UserError
from lit_g2rpo.objectives.shaping import EntropyBand, LengthBand, entropy_band_loss, entropy_direction, length_reward


def test_trapezoid_by_hand():
    lengths = torch.tensor([0, 9, 10, 15, 20, 30, 40, 50, 60, 61])
    expected = [0, 0, 0, 0.5, 1, 1, 1, 0.5, 0, 0]
    assert length_reward(lengths, LengthBand(10, 20, 40, 60)).tolist() == expected
    assert length_reward(lengths.double(), LengthBand(10, 20, 40, 60)).dtype == torch.float64


@pytest.mark.parametrize(
    ("band", "expected"),
    [
        (LengthBand(10, 10, 20, 20), [0, 1, 1, 1, 0]),
        (LengthBand(0, 0, 20, 30), [1, 1, 1, 1, 0.5]),
        (LengthBand(10, 10, 10, 10), [0, 1, 0, 0, 0]),
        (LengthBand(0, 0, 0, 0), [0, 0, 0, 0, 0]),
    ],
)
def test_vertical_edges(band, expected):
    assert length_reward(torch.tensor([5, 10, 15, 20, 25]), band).tolist() == expected


@given(st.lists(st.integers(0, 100), min_size=4, max_size=4), st.floats(0, 120))
def test_trapezoid_is_bounded_and_one_on_its_plateau(thresholds, length):
    band = LengthBand(*sorted(thresholds))
    value = length_reward(torch.tensor([length], dtype=torch.float64), band).item()
    assert 0 <= value <= 1
    if band.low <= length <= band.high:
        assert value == 1
    if not band.minimum <= length <= band.maximum:
        assert value == 0


@pytest.mark.parametrize(
    "thresholds", [(2, 1, 3, 4), (0, 1, 5, 4), (-1, 1, 2, 3), (0, 1, 2, float("inf")), (0, float("nan"), 2, 3)]
)
def test_length_band_is_checked(thresholds):
    with pytest.raises(UserError, match="minimum <= low <= high <= maximum"):
        LengthBand(*thresholds)


@pytest.mark.parametrize("bounds", [(0.6, 0.2), (-0.1, 0.2), (0.1, float("inf")), (float("nan"), 0.2)])
def test_entropy_band_is_checked(bounds):
    with pytest.raises(UserError, match="low <= high"):
        EntropyBand(*bounds)


def test_entropy_band_loss_and_its_slope():
    entropy = torch.tensor([0.05, 0.2, 0.4, 0.6, 1.1], dtype=torch.float64, requires_grad=True)
    loss = entropy_band_loss(entropy, 0.2, 0.6)
    torch.testing.assert_close(loss, torch.tensor([0.15, 0, 0, 0, 0.5], dtype=torch.float64))
    directions = [entropy_direction(value, EntropyBand(0.2, 0.6)) for value in entropy.tolist()]
    assert directions == [-1, 0, 0, 0, 1]
    inside_or_out = [0, 2, 4]  # at a bound itself the slope is a matter of convention
    loss.sum().backward()
    assert entropy.grad[inside_or_out].tolist() == [directions[i] for i in inside_or_out]
