"""Length trapezoid and entropy band, and what the two forms of the entropy penalty do to a policy."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lit_g2rpo.errors import UserError
from lit_g2rpo.objectives.fields import TokenFields
from lit_g2rpo.objectives.objective import Objective
from lit_g2rpo.objectives.relative_bands import RelativeBand, length_band, reference_length_reward
from lit_g2rpo.objectives.shaping import (
    EntropyBand,
    LengthBand,
    entropy_band_loss,
    entropy_direction,
    length_reward,
    overlong_penalty,
)
from lit_g2rpo.tasks import Task
from lit_g2rpo.training.table import COLUMNS, shaped_columns

DOUBLE = torch.float64


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


def test_overlong_penalty_by_hand():
    """The paper's own limit: free up to 16,384 of 20,480 tokens, then 1 / 4,096 for each token."""
    lengths = torch.tensor([1, 16384, 16385, 18432, 20479, 20480])
    expected = torch.tensor([0, 0, 1 / 4096, 0.5, 4095 / 4096, 1])
    torch.testing.assert_close(overlong_penalty(lengths, 20480, 0.2), expected, atol=1e-5, rtol=0)
    assert overlong_penalty(torch.tensor([0, 5, 10]), 10, 1.0).tolist() == [0, 0.5, 1]


@pytest.mark.parametrize(("weight", "expected"), [(0.0, [1.0, 1.0, 1.0, 1.0]), (0.5, [1.0, 1.0, 0.75, 0.5])])
def test_the_overlong_penalty_is_taken_from_the_reward(weight, expected):
    values = torch.zeros(1, 4, len(COLUMNS), dtype=DOUBLE)
    values[..., COLUMNS.index("total")] = 1
    values[..., COLUMNS.index("length")] = torch.tensor([1.0, 80.0, 90.0, 100.0])
    column = shaped_columns(values, Objective(overlong_weight=weight), {"a": Task("a")}, 100)
    torch.testing.assert_close(column["reward"], torch.tensor([expected], dtype=DOUBLE))


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


@pytest.mark.parametrize(
    ("values", "length", "band"),
    [
        (["0.25x", "1.2x", "2.5x", 4096], 100, LengthBand(25, 120, 250, 4096)),
        (["0.25x", "1.2x", "2.5x", 4096], 2000, LengthBand(500, 2400, 4096, 4096)),
        (["0.25x", "1.2x", "2.5x", 4096], 5000, LengthBand(1250, 4096, 4096, 4096)),
        (["4+0ref", "8 + 1ref", "20+1.5ref", "32+4ref"], 10, LengthBand(4, 18, 35, 72)),
        (["0.5ref", "0.8ref", "1.5ref", "4ref"], 0, LengthBand(0, 0, 0, 0)),
        ([30, "1x", "1x", "2x"], 20, LengthBand(20, 20, 20, 40)),
    ],
)
def test_relative_thresholds_by_hand(values, length, band):
    assert length_band(values).at(length) == band


def test_numbers_alone_are_tokens():
    assert length_band([1, 2.5, "3", 4]) == LengthBand(1, 2.5, 3, 4)
    assert length_band(["1x", "1x", "2x", "3x"]) == RelativeBand("start", (0, 0, 0, 0), (1, 1, 2, 3))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["1x", "2x", "3x"], "4 thresholds"),
        ("1x2x", "4 thresholds"),
        (["1x", "2x", "3ref", "4ref"], "not to both"),
        (["2x", "1x", "3x", "4x"], "ascending"),
        ([20, "10+0x", "30x", "40x"], "ascending"),
        ([1, 2, 3, "4y"], "'4y' is no threshold"),
        ([1, 2, 3, None], "None is no threshold"),
        ([1, 2, 3, "-4x"], "'-4x' is no threshold"),
        ([1, 3, 2, 4], "minimum <= low"),
        ([-1, "1x", "2x", "3x"], "0 or more"),
        ([1, "1x", "2x", float("inf")], "0 or more"),
    ],
)
def test_wrong_thresholds_are_refused(values, message):
    with pytest.raises(UserError, match=message):
        length_band(values)


def test_a_reference_band_judges_each_completion_by_its_own_answer():
    band = length_band([0, "4+1ref", "8+1ref", "8+3ref"])
    lengths = torch.tensor([7, 12, 20, 28, 108, 206, 308, 2])
    references = torch.tensor([10, 10, 10, 10, 100, 100, 100, 0])
    found = reference_length_reward(lengths, references, band)
    # plateaus 14 to 18, 104 to 108 and 4 to 8; falls end at 38, 308 and 8
    torch.testing.assert_close(found, torch.tensor([7 / 14, 12 / 14, 18 / 20, 10 / 20, 1, 102 / 200, 0, 2 / 4]))


def entropy_loss(logits: torch.Tensor, mode: str, direction: float, sampling: torch.Tensor) -> torch.Tensor:
    """Expected entropy term of the loss of one token, over all tokens that could have been sampled."""
    logprobs = logits.log_softmax(-1)
    entropy = -(logprobs.exp() * logprobs).sum(-1)
    vocabulary = len(logits)
    zeros = torch.zeros(vocabulary, dtype=DOUBLE)
    fields = TokenFields(zeros, logprobs.detach(), None, zeros, direction * sampling.detach(), torch.zeros(vocabulary))
    objective = Objective(entropy=mode, entropy_coefficient=1.0)
    return objective.token_loss(logprobs, entropy.expand(vocabulary), fields)[0].sum()


LOGITS = torch.tensor([2.0, 0.5, 0.0, -1.0, 1.2], dtype=DOUBLE)
OTHER = torch.tensor([0.3, 0.9, -0.5, 0.2, -1.4], dtype=DOUBLE)


def gradient(value: torch.Tensor, of: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(value, of)[0]


def test_the_sampled_penalty_has_no_expected_gradient_on_policy_and_the_exact_one_has():
    logits = LOGITS.clone().requires_grad_()
    own = logits.softmax(0)
    torch.testing.assert_close(gradient(entropy_loss(logits, "sampled", 1, own), logits), torch.zeros(5, dtype=DOUBLE))
    # d entropy / d logit_k = -p_k (log p_k + H), by hand
    p = own.detach()
    expected = -p * (p.log() - (p * p.log()).sum())
    torch.testing.assert_close(gradient(entropy_loss(logits, "exact", 1, own), logits), expected)
    assert expected.abs().max() > 0.1


def test_off_policy_the_sampled_penalty_is_a_pull_to_the_sampling_policy():
    logits, old = LOGITS.clone().requires_grad_(), OTHER.softmax(0)
    found = gradient(entropy_loss(logits, "sampled", 1, old), logits)
    kl = (old * (old.log() - logits.log_softmax(0))).sum()
    torch.testing.assert_close(found, gradient(kl, logits))
    assert found.abs().max() > 0.1


def test_the_same_holds_for_completions_of_several_tokens():
    """All completions of a two-step policy over three tokens: the mean over tokens, averaged over completions."""
    torch.manual_seed(0)
    first = torch.randn(3, dtype=DOUBLE).requires_grad_()
    second = torch.randn(3, 3, dtype=DOUBLE).requires_grad_()
    sampled = exact = torch.zeros((), dtype=DOUBLE)
    for a, b in itertools.product(range(3), repeat=2):
        steps = [first.log_softmax(0), second[a].log_softmax(0)]
        probability = (steps[0][a] + steps[1][b]).exp().detach()
        sampled = sampled - probability * (steps[0][a] + steps[1][b]) / 2
        exact = exact - probability * sum((step.exp() * step).sum() for step in steps) / 2
    assert sampled.item() == pytest.approx(exact.item())
    for part in (first, second):
        grad = torch.autograd.grad(sampled, part, retain_graph=True)[0]
        torch.testing.assert_close(grad, torch.zeros_like(part))
        assert torch.autograd.grad(exact, part, retain_graph=True)[0].abs().max() > 0.01


@pytest.mark.parametrize("band", [EntropyBand(0.2, 0.6), EntropyBand(1.5, 1.6)])
def test_on_policy_only_the_exact_penalty_brings_entropy_into_its_band(band):
    ends = {}
    for mode in ("exact", "sampled"):
        logits = LOGITS.clone().requires_grad_()
        for _ in range(300):
            own = logits.softmax(0)
            entropy = -(own * own.log()).sum()
            direction = entropy_direction(entropy.item(), band)
            step = gradient(entropy_loss(logits, mode, direction, own), logits)
            logits = (logits - 0.05 * step).detach().requires_grad_()
        ends[mode] = logits.detach(), entropy.item()
    torch.testing.assert_close(ends["sampled"][0], LOGITS, atol=1e-12, rtol=0)
    assert not band.low <= ends["sampled"][1] <= band.high
    assert band.low - 0.01 <= ends["exact"][1] <= band.high + 0.01
