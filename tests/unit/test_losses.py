"""Clipped loss and KL penalty, against numbers worked out by hand and finite differences."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lit_g2rpo.objectives.kl import kl_penalty
from lit_g2rpo.objectives.losses import policy_loss, token_losses, truncated_importance

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
    value, metrics = token_losses(logprob, old, advantages, **CLIPS)
    value.sum().backward()
    assert value.item() == pytest.approx(loss)
    assert logprob.grad.item() == pytest.approx(gradient)
    assert metrics["clip_fraction"].item() == clipped
    assert metrics["ratio"].item() == pytest.approx(ratio)
    assert metrics["approx_kl"].item() == pytest.approx(ratio - 1 - math.log(ratio))
    assert not any(metric.requires_grad for metric in metrics.values())


def test_without_dual_clip_a_bad_token_is_unbounded():
    loss, metrics = token_losses(
        torch.tensor([2.0]), torch.tensor([0.0]), torch.tensor([-1.0]), clip_low=0.2, clip_high=0.3, dual_clip=None
    )
    assert loss.item() == pytest.approx(math.exp(2))
    assert metrics["clip_fraction"].item() == 0


@pytest.mark.parametrize("gap", [-500.0, 500.0])
@pytest.mark.parametrize("advantage", [-1.0, 1.0])
def test_extreme_ratios_stay_finite(gap, advantage):
    logprob = torch.tensor([gap], requires_grad=True)
    zero = torch.zeros(1)
    loss = token_losses(logprob, zero, torch.tensor([advantage]), clip_low=0.2, clip_high=0.3, dual_clip=None)[0]
    (loss + kl_penalty(logprob, zero)).sum().backward()
    assert loss.isfinite().all()
    assert logprob.grad.isfinite().all()


def test_on_policy_gradient_is_the_policy_gradient():
    logprobs = torch.randn(20, dtype=DOUBLE, requires_grad=True)
    advantages = torch.randn(20, dtype=DOUBLE)
    token_losses(logprobs, logprobs.detach(), advantages, **CLIPS)[0].sum().backward()
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
    assert torch.autograd.gradcheck(lambda x: token_losses(x, old, advantages, **CLIPS)[0], logprobs)
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
    tokens = token_losses(logprobs, old, advantages, **CLIPS)[0][mask]
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


def one(ratio, advantage, **options):
    """Loss and gradient of one token."""
    logprob = torch.tensor([math.log(ratio) - 1], dtype=DOUBLE, requires_grad=True)
    old, advantages = torch.tensor([-1.0], dtype=DOUBLE), torch.tensor([advantage], dtype=DOUBLE)
    loss, metrics = token_losses(logprob, old, advantages, **CLIPS, **options)
    loss.sum().backward()
    return loss.item(), logprob.grad.item(), metrics


@pytest.mark.parametrize(
    ("ratio", "advantage", "weight"), [(1.1, 2.0, 1.1), (2.0, 2.0, 1.3), (0.5, 2.0, 0.8), (2.0, -1.0, 1.3)]
)
def test_cispo_by_hand(ratio, advantage, weight):
    """A weighted log-probability: a clipped token keeps its gradient."""
    loss, gradient, metrics = one(ratio, advantage, loss="cispo")
    assert loss == pytest.approx(-weight * advantage * (math.log(ratio) - 1))
    assert gradient == pytest.approx(-weight * advantage)
    assert metrics["clip_fraction"].item() == (weight != ratio)


@pytest.mark.parametrize("ratio", [0.25, 1.0, 3.0])
@pytest.mark.parametrize(("advantage", "tau"), [(1.5, 1.0), (-1.5, 1.05)])
def test_sapo_by_hand(ratio, advantage, tau):
    loss, gradient, metrics = one(ratio, advantage, loss="sapo")
    gate = 1 / (1 + math.exp(-tau * (ratio - 1)))
    assert loss == pytest.approx(-advantage * 4 / tau * gate)
    assert gradient == pytest.approx(-advantage * 4 * gate * (1 - gate) * ratio)
    assert "clip_fraction" not in metrics


def test_every_loss_has_the_policy_gradient_where_the_policies_agree():
    for loss in ("ppo", "cispo", "sapo"):
        assert one(1.0, 2.0, loss=loss)[1] == pytest.approx(-2.0)


@pytest.mark.parametrize("loss", ["gspo", "gspo_token"])
def test_gspo_by_hand(loss):
    """Completions of two tokens and one: the ratio is the geometric mean of a completion's ratios."""
    ratios = torch.tensor([1.1, 1.3, 0.5], dtype=DOUBLE)
    old = torch.tensor([-1.0, -2.0, -3.0], dtype=DOUBLE)
    logprobs = (old + ratios.log()).requires_grad_()
    advantages = torch.tensor([2.0, 2.0, 2.0], dtype=DOUBLE)
    losses, metrics = token_losses(
        logprobs, old, advantages, loss=loss, **CLIPS, completion_ids=torch.tensor([0, 0, 1])
    )
    mean = math.sqrt(1.1 * 1.3)
    torch.testing.assert_close(metrics["ratio"], torch.tensor([mean, mean, 0.5], dtype=DOUBLE))
    torch.testing.assert_close(losses.detach(), torch.tensor([-2 * mean, -2 * mean, -1.0], dtype=DOUBLE))
    losses.sum().backward()
    # with one advantage per completion both forms have the same gradient
    torch.testing.assert_close(logprobs.grad, torch.tensor([-2 * mean, -2 * mean, -1.0], dtype=DOUBLE))


def test_the_gspo_forms_differ_where_advantages_do():
    old, ids = torch.zeros(2, dtype=DOUBLE), torch.tensor([0, 0])
    advantages = torch.tensor([1.0, 0.0], dtype=DOUBLE)
    gradients = {}
    for loss in ("gspo", "gspo_token"):
        logprobs = torch.zeros(2, dtype=DOUBLE, requires_grad=True)
        token_losses(logprobs, old, advantages, loss=loss, **CLIPS, completion_ids=ids)[0].sum().backward()
        gradients[loss] = logprobs.grad.tolist()
    assert gradients == {"gspo": [-0.5, -0.5], "gspo_token": [-1.0, 0.0]}


def test_policy_loss_takes_a_completion_a_row_for_gspo():
    torch.manual_seed(0)
    logprobs, old = torch.randn(3, 4, dtype=DOUBLE), torch.randn(3, 4, dtype=DOUBLE)
    mask = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0], [1, 1, 0, 0]])
    advantages = torch.tensor([[1.0], [-1.0], [0.5]], dtype=DOUBLE)
    found, _ = policy_loss(logprobs, old, advantages, mask, normalizer=7, loss="gspo")
    expected = 0.0
    for row, length, advantage in zip(range(3), (4, 1, 2), (1.0, -1.0, 0.5), strict=True):
        ratio = math.exp(float((logprobs - old)[row, :length].mean()))
        value = max(-advantage * ratio, -advantage * min(max(ratio, 0.8), 1.3))
        expected += length * (min(value, 3.0) if advantage < 0 else value)
    assert found.item() == pytest.approx(expected / 7)


@pytest.mark.parametrize(("arguments", "message"), [({"loss": "trpo"}, "unknown loss"), ({"loss": "gspo"}, "ids")])
def test_what_a_loss_cannot_do_is_refused(arguments, message):
    zeros = torch.zeros(2)
    with pytest.raises(ValueError, match=message):
        token_losses(zeros, zeros, zeros, **arguments)


def test_kl_estimators_by_hand():
    logprobs, ref = torch.tensor([-1.0], dtype=DOUBLE), torch.tensor([-1.5], dtype=DOUBLE)
    found = {name: kl_penalty(logprobs, ref, estimator=name).item() for name in ("k1", "k2", "k3")}
    assert found == pytest.approx({"k1": 0.5, "k2": 0.125, "k3": math.exp(-0.5) - 1 + 0.5})
    with pytest.raises(ValueError, match="k1, k2 or k3"):
        kl_penalty(logprobs, ref, estimator="k4")


def test_expected_gradients_of_the_kl_estimators():
    """On policy: k1 as a loss has none, k2 that of KL(current || reference)."""
    logits = torch.tensor([0.3, -0.2, 0.9, 0.1], dtype=DOUBLE, requires_grad=True)
    ref = torch.tensor([0.1, 0.5, -0.3, 0.2], dtype=DOUBLE).log_softmax(0)
    true = torch.autograd.grad((logits.softmax(0) * (logits.log_softmax(0) - ref)).sum(), logits)[0]
    found = {}
    for name in ("k1", "k2", "k3"):
        logprobs = logits.log_softmax(0)
        loss = (logprobs.exp().detach() * kl_penalty(logprobs, ref, estimator=name)).sum()
        found[name] = torch.autograd.grad(loss, logits)[0]
    torch.testing.assert_close(found["k1"], torch.zeros(4, dtype=DOUBLE))
    torch.testing.assert_close(found["k2"], true)
    assert (found["k3"] - true).abs().max() > 0.01


def test_importance_is_cut_at_the_cap_and_stays_finite():
    found = truncated_importance(torch.tensor([0.0, -1, 500]), torch.tensor([0.0, 0, 0]), 2.0)
    torch.testing.assert_close(found, torch.tensor([1.0, math.exp(-1), 2.0]))
