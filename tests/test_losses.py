"""Clipped loss and KL penalty, against numbers worked out by hand and finite differences."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lit_g2rpo.objectives.losses import clipped_loss, kl_penalty, policy_loss

CLIPS = {"clip_low": 0.2, "clip_high": 0.3, "dual_clip": 3.0}
DOUBLE = torch.float64


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient", "clipped"),
    [
        (1.0, 2.0, -2.0, -2.0, 0),
        (1.2, 2.0, -2.4, -2.4, 0),
        (1.5, 2.0, -2.6, 0.0, 1),  # a good token has gained enough
        (0.5, 2.0, -1.0, -1.0, 0),
        (0.9, -1.0, 0.9, 0.9, 0),
        (0.5, -1.0, 0.8, 0.0, 1),  # a bad token has lost enough
        (2.0, -1.0, 2.0, 2.0, 0),
        (5.0, -1.0, 3.0, 0.0, 1),  # dual clip
        (5.0, 0.0, 0.0, 0.0, 0),
    ],
)
def test_clipped_loss_by_hand(ratio, advantage, loss, gradient, clipped):
    logprob = torch.tensor([math.log(ratio) - 1], dtype=DOUBLE, requires_grad=True)
    old, advantages = torch.tensor([-1.0], dtype=DOUBLE), torch.tensor([advantage], dtype=DOUBLE)
    value, metrics = clipped_loss(logprob, old, advantages, **CLIPS)
    value.sum().backward()
    assert value.item() == pytest.approx(loss)
    assert logprob.grad.item() == pytest.approx(gradient)
    assert metrics["clip_fraction"].item() == clipped
    assert metrics["ratio"].item() == pytest.approx(ratio)
    assert metrics["approx_kl"].item() == pytest.approx(ratio - 1 - math.log(ratio))
    assert not any(metric.requires_grad for metric in metrics.values())


def test_without_dual_clip_a_bad_token_is_unbounded():
    loss, metrics = clipped_loss(
        torch.tensor([2.0]), torch.tensor([0.0]), torch.tensor([-1.0]), clip_low=0.2, clip_high=0.3, dual_clip=None
    )
    assert loss.item() == pytest.approx(math.exp(2))
    assert metrics["clip_fraction"].item() == 0


@pytest.mark.parametrize("gap", [-500.0, 500.0])
@pytest.mark.parametrize("advantage", [-1.0, 1.0])
def test_extreme_ratios_stay_finite(gap, advantage):
    logprob = torch.tensor([gap], requires_grad=True)
    zero = torch.zeros(1)
    loss = clipped_loss(logprob, zero, torch.tensor([advantage]), clip_low=0.2, clip_high=0.3, dual_clip=None)[0]
    (loss + kl_penalty(logprob, zero)).sum().backward()
    assert loss.isfinite().all()
    assert logprob.grad.isfinite().all()


def test_on_policy_gradient_is_the_policy_gradient():
    logprobs = torch.randn(20, dtype=DOUBLE, requires_grad=True)
    advantages = torch.randn(20, dtype=DOUBLE)
    clipped_loss(logprobs, logprobs.detach(), advantages, **CLIPS)[0].sum().backward()
    torch.testing.assert_close(logprobs.grad, -advantages)


@given(st.floats(-3, 3))
def test_kl_penalty_is_not_negative_and_exact(gap):
    value = kl_penalty(torch.tensor([-gap], dtype=DOUBLE), torch.zeros(1, dtype=DOUBLE)).item()
    assert value >= 0
    assert value == pytest.approx(math.exp(gap) - 1 - gap, abs=1e-12)


def test_kl_penalty_is_unbiased_and_small_gaps_keep_their_digits():
    p, q = torch.tensor([0.7, 0.2, 0.1], dtype=DOUBLE), torch.tensor([0.5, 0.3, 0.2], dtype=DOUBLE)
    expected = (p * (p / q).log()).sum()
    torch.testing.assert_close((p * kl_penalty(p.log(), q.log())).sum(), expected)
    assert kl_penalty(torch.tensor([0.0]), torch.tensor([1e-4])).item() == pytest.approx(5e-9, rel=1e-2)


def test_gradients_by_finite_differences():
    torch.manual_seed(0)
    logprobs = torch.randn(12, dtype=DOUBLE, requires_grad=True)
    old, advantages, ref = (torch.randn(12, dtype=DOUBLE) for _ in range(3))
    assert torch.autograd.gradcheck(lambda x: clipped_loss(x, old, advantages, **CLIPS)[0], logprobs)
    assert torch.autograd.gradcheck(lambda x: kl_penalty(x, ref), logprobs)


def test_policy_loss_adds_up_over_microbatches():
    torch.manual_seed(0)
    logprobs, old = torch.randn(2, 6, 9, dtype=DOUBLE).unbind()
    advantages, mask = torch.randn(6, 1, dtype=DOUBLE), torch.rand(6, 9) < 0.6
    whole, metrics = policy_loss(logprobs, old, advantages, mask, normalizer=mask.sum())
    parts = [
        policy_loss(logprobs[s], old[s], advantages[s], mask[s], normalizer=mask.sum())[0]
        for s in (slice(0, 1), slice(1, 6))
    ]
    torch.testing.assert_close(whole, sum(parts))
    tokens = clipped_loss(logprobs, old, advantages, **CLIPS)[0][mask]
    torch.testing.assert_close(whole, tokens.mean())
    assert set(metrics) == {"clip_fraction", "ratio", "approx_kl"}
    assert all(metric.ndim == 0 for metric in metrics.values())


def test_policy_loss_ignores_whatever_is_masked():
    mask = torch.tensor([[True, False]])
    logprobs = torch.tensor([[-1.0, float("nan")]], requires_grad=True)
    old = torch.tensor([[-1.0, float("-inf")]])
    loss, metrics = policy_loss(logprobs, old, torch.tensor([[1.0]]), mask, normalizer=1)
    loss.backward()
    assert loss.item() == -1
    assert logprobs.grad.tolist() == [[-1, 0]]
    assert metrics["ratio"].item() == 1
    nothing = policy_loss(logprobs, old, torch.tensor([[1.0]]), torch.zeros(1, 2, dtype=torch.bool), normalizer=1)
    assert nothing[0].item() == 0
    assert nothing[0].requires_grad
