"""Clipped loss and KL penalty, against numbers worked out by hand and finite differences."""

import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lit_g2rpo.errors import UserError
from lit_g2rpo.objectives import GRPO
from lit_g2rpo.objectives.fields import TokenFields
from lit_g2rpo.objectives.kl import kl_penalty
from lit_g2rpo.objectives.losses import LOSSES, build_loss, ppo, truncated_importance

CLIPS = {"clip_low": 0.2, "clip_high": 0.3, "dual_clip": 3.0}
KEYS = CLIPS | {"tau_positive": 1.0, "tau_negative": 1.05}
DOUBLE = torch.float64


def fields_of(old, advantages, weight, ids=None):
    """What the trainer gives the loss of flat tokens that no other term acts on."""
    none = torch.zeros_like(old)
    return TokenFields(advantages, old, None, weight, none, torch.zeros(len(old), dtype=torch.long), ids)


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
    value, metrics = ppo(logprob, old, advantages, **CLIPS)
    value.sum().backward()
    assert value.item() == pytest.approx(loss)
    assert logprob.grad.item() == pytest.approx(gradient)
    assert metrics["clip_fraction"].item() == clipped
    assert metrics["ratio"].item() == pytest.approx(ratio)
    assert metrics["approx_kl"].item() == pytest.approx(ratio - 1 - math.log(ratio))
    assert not any(metric.requires_grad for metric in metrics.values())


def test_without_dual_clip_a_bad_token_is_unbounded():
    loss, metrics = ppo(
        torch.tensor([2.0]), torch.tensor([0.0]), torch.tensor([-1.0]), clip_low=0.2, clip_high=0.3, dual_clip=None
    )
    assert loss.item() == pytest.approx(math.exp(2))
    assert metrics["clip_fraction"].item() == 0


@pytest.mark.parametrize("gap", [-500.0, 500.0])
@pytest.mark.parametrize("advantage", [-1.0, 1.0])
def test_extreme_ratios_stay_finite(gap, advantage):
    logprob = torch.tensor([gap], requires_grad=True)
    zero = torch.zeros(1)
    loss = ppo(logprob, zero, torch.tensor([advantage]), clip_low=0.2, clip_high=0.3, dual_clip=None)[0]
    (loss + kl_penalty(logprob, zero)).sum().backward()
    assert loss.isfinite().all()
    assert logprob.grad.isfinite().all()


def test_on_policy_gradient_is_the_policy_gradient():
    logprobs = torch.randn(20, dtype=DOUBLE, requires_grad=True)
    advantages = torch.randn(20, dtype=DOUBLE)
    ppo(logprobs, logprobs.detach(), advantages, **CLIPS)[0].sum().backward()
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
    assert torch.autograd.gradcheck(lambda x: ppo(x, old, advantages, **CLIPS)[0], logprobs)
    assert torch.autograd.gradcheck(lambda x: kl_penalty(x, ref), logprobs)


def one(ratio, advantage, **options):
    """Loss and gradient of one token."""
    logprob = torch.tensor([math.log(ratio) - 1], dtype=DOUBLE, requires_grad=True)
    old, advantages = torch.tensor([-1.0], dtype=DOUBLE), torch.tensor([advantage], dtype=DOUBLE)
    loss, metrics = build_loss(options["loss"], KEYS, {})(logprob, fields_of(old, advantages, torch.ones_like(old)))
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
    losses, metrics = LOSSES[loss](logprobs, old, advantages, **CLIPS, completion_ids=torch.tensor([0, 0, 1]))
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
        LOSSES[loss](logprobs, old, advantages, **CLIPS, completion_ids=ids)[0].sum().backward()
        gradients[loss] = logprobs.grad.tolist()
    assert gradients == {"gspo": [-0.5, -0.5], "gspo_token": [-1.0, 0.0]}


def test_gspo_of_completions_of_any_length():
    torch.manual_seed(0)
    lengths, advantages = torch.tensor([4, 1, 2]), torch.tensor([1.0, -1.0, 0.5], dtype=DOUBLE)
    logprobs, old = torch.randn(7, dtype=DOUBLE), torch.randn(7, dtype=DOUBLE)
    ids, weight = torch.arange(3).repeat_interleave(lengths), torch.full((7,), 1 / 7, dtype=DOUBLE)
    fields = fields_of(old, advantages[ids], weight, ids)
    found, _ = GRPO(loss="gspo").token_loss(logprobs, torch.zeros_like(old), fields)
    expected = 0.0
    for row, (length, advantage) in enumerate(zip(lengths.tolist(), advantages.tolist(), strict=True)):
        ratio = math.exp(float((logprobs - old)[ids == row].mean()))
        value = max(-advantage * ratio, -advantage * min(max(ratio, 0.8), 1.3))
        expected += length * (min(value, 3.0) if advantage < 0 else value)
    assert found.sum().item() == pytest.approx(expected / 7)


def test_a_microbatch_without_tokens_has_a_loss_with_a_gradient():
    none = torch.zeros(0)
    for name in LOSSES:
        logprobs = torch.zeros(0, requires_grad=True)
        ids = torch.zeros(0, dtype=torch.long)
        loss, metrics = GRPO(loss=name).token_loss(logprobs, none, fields_of(none, none, none, ids))
        assert loss.sum().item() == 0
        assert loss.requires_grad
        assert all(metric.shape == (0,) for metric in metrics.values())


def test_a_loss_of_whole_completions_asks_for_their_ids():
    zeros = torch.zeros(2)
    with pytest.raises(TypeError, match="completion_ids"):
        LOSSES["gspo"](zeros, zeros, zeros, **CLIPS)


def squared(logprobs, old_logprobs, advantages, *, clip_high, strength, power=2.0):
    """A custom loss with one coefficient of the objective's and two of its own."""
    gap = (logprobs - old_logprobs).abs().clamp(max=clip_high)
    return -advantages * logprobs + strength * gap**power, {"gap": gap.detach()}


def completion_sum(logprobs, old_logprobs, advantages, completion_ids):
    return -advantages * torch.zeros_like(logprobs).index_add(0, completion_ids, logprobs)[completion_ids], {}


def hidden(logprobs, old_logprobs, advantages, **options):
    return logprobs, options


PATH = f"{__name__}.squared"


def test_a_loss_from_outside_has_its_options_and_the_objectives_coefficients():
    torch.manual_seed(0)
    logprobs, old, advantages = torch.randn(3, 6, dtype=DOUBLE).unbind()
    weight = torch.rand(6, dtype=DOUBLE)
    objective = GRPO(loss=PATH, loss_options={"strength": 0.5}, clip_high=0.1)
    found, metrics = objective.token_loss(logprobs, old, fields_of(old, advantages, weight))
    gap = (logprobs - old).abs().clamp(max=0.1)
    torch.testing.assert_close(found, weight * (-advantages * logprobs + 0.5 * gap**2))
    assert torch.equal(metrics["gap"], gap)
    assert (objective.loss, objective.elementwise) == (PATH, True)


def test_a_loss_from_outside_that_takes_the_ids_is_not_elementwise():
    objective, ids = GRPO(loss=f"{__name__}.completion_sum"), torch.tensor([0, 0, 1])
    logprobs, one = torch.tensor([1.0, 2.0, 4.0]), torch.ones(3)
    assert not objective.elementwise
    assert objective.token_loss(logprobs, one, fields_of(one, one, one, ids))[0].tolist() == [-3, -3, -4]


@pytest.mark.parametrize(
    ("loss", "options", "message"),
    [
        ("trpo", {}, "loss is 'trpo'; known: ppo, cispo, sapo, gspo, gspo_token; or give package.module.Name"),
        ("gsp", {}, "did you mean gspo?"),
        (f"{__name__}.nope", {}, "no 'nope'"),
        (f"{__name__}.KEYS", {}, "is no function of logprobs, old_logprobs and advantages"),
        (f"{__name__}.UserError", {}, "is no function of logprobs, old_logprobs and advantages"),
        ("ppo", {"strength": 1}, "loss_options has 'strength'; known: none"),
        ("ppo", {"clip_low": 0.1}, "loss_options has 'clip_low'; known: none"),
        (PATH, {"strenght": 1}, "loss_options has 'strenght'; known: strength, power"),
        (PATH, {}, "loss_options has no 'strength', which is required"),
        (f"{__name__}.hidden", {"strength": 1}, r"replace \*\*options by named arguments"),
    ],
)
def test_what_is_no_loss_or_not_its_option_is_refused(loss, options, message):
    with pytest.raises(UserError, match=f"model.objective.*{message}"):
        GRPO(loss=loss, loss_options=options)


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


def test_a_loss_that_is_no_loss_of_each_token_is_refused(monkeypatch):
    monkeypatch.setitem(LOSSES, "mean", lambda logprobs, old_logprobs, advantages: (advantages.mean(), {}))
    objective = GRPO(loss="mean")
    with pytest.raises(
        UserError, match=r"model.objective.loss returned \[\] for 3 tokens; it must return the loss of each"
    ):
        objective._loss(torch.zeros(3), SimpleNamespace(old_logprobs=torch.zeros(3), advantages=torch.ones(3)))


@pytest.mark.parametrize("gap", [-30.0, 25.0, 300.0])
def test_kl_estimators_keep_their_gradient_far_from_the_reference(gap):
    logprobs = torch.tensor([gap], dtype=DOUBLE, requires_grad=True)
    found = {}
    for name in ("k1", "k2", "k3"):
        value = kl_penalty(logprobs, torch.zeros(1, dtype=DOUBLE), estimator=name)
        assert value.isfinite().all()
        found[name] = torch.autograd.grad(value.sum(), logprobs)[0].item()
    # far below the reference the exponential of k3 is cut, and 1 is left of its gradient 1 - exp(-x)
    assert found == pytest.approx({"k1": 1.0, "k2": gap, "k3": 1.0}, rel=1e-9)
