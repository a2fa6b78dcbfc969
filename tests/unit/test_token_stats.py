"""The head in tiles against full logits in float64 and autograd."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lit_g2rpo.objectives import G2RPO
from lit_g2rpo.objectives.fields import TokenFields
from lit_g2rpo.policy.head import tiles as tiles
from lit_g2rpo.policy.head.token_stats import head_loss, logits_stats, token_logprobs

ROWS, VOCABULARY, WIDTH = 30, 41, 8
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-9}
LOSSES = {
    "clipped": G2RPO().token_loss,
    "kl": G2RPO(kl_coefficient=0.1).token_loss,
    "entropy": G2RPO(entropy_coefficient=0.1).token_loss,
    "sampled entropy": G2RPO(entropy_coefficient=0.1, entropy="sampled").token_loss,
    "all": G2RPO(kl_coefficient=0.1, entropy_coefficient=0.1, dual_clip=None).token_loss,
}


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five tiles of at most 7 tokens, in parts of at most 3."""
    monkeypatch.setattr(tiles, "MIN_ROWS", 7)
    monkeypatch.setattr(tiles, "TILE_BYTES", {})
    monkeypatch.setattr(tiles, "SCRATCH_BYTES", {"cpu": 3 * VOCABULARY * 8})


def leaves(dtype: torch.dtype, rows: int = ROWS, vocabulary: int = VOCABULARY) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    hidden = torch.randn(rows, WIDTH, dtype=torch.float64).to(dtype).requires_grad_()
    weight = torch.randn(vocabulary, WIDTH, dtype=torch.float64).to(dtype).requires_grad_()
    return hidden, weight, torch.randint(vocabulary, (rows,))


def fields(hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float = 1.0) -> TokenFields:
    """Fields of a policy that has moved far enough for some ratios to be clipped."""
    torch.manual_seed(1)
    rows = len(targets)
    logprobs, _ = logits_stats((hidden.double() @ weight.double().T / temperature).detach(), targets)
    old, ref = (logprobs + 0.3 * torch.randn(rows).double() for _ in range(2))
    vectors = [torch.randn(rows).double(), old, ref, torch.rand(rows).double() / 10, torch.randn(rows).double() / 10]
    advantages, old, ref, weight, entropy_weight = (vector.to(hidden.dtype) for vector in vectors)
    return TokenFields(advantages, old, ref, weight, entropy_weight, torch.zeros(rows, dtype=torch.long))


def cast(fields: TokenFields, dtype: torch.dtype) -> TokenFields:
    names = ("advantages", "old_logprobs", "ref_logprobs", "weight", "entropy_weight")
    return replace(fields, **{name: getattr(fields, name).to(dtype) for name in names})


def full(hidden, weight, targets, fields, token_loss, temperature=1.0):
    """Loss, metrics and gradients by full logits in float64."""
    pair = [x.detach().double().requires_grad_() for x in (hidden, weight)]
    logprobs, entropy = logits_stats(pair[0] @ pair[1].T / temperature, targets)
    loss, metrics = token_loss(logprobs, entropy, cast(fields, torch.float64))
    metrics |= {"nll": -logprobs, "entropy": entropy, "loss": loss}
    return loss.sum(), metrics, torch.autograd.grad(loss.sum(), pair)


def error(ours: Tensor, theirs: Tensor) -> float:
    return float((ours.double() - theirs).detach().norm() / theirs.detach().norm())


def centered(logprobs: Tensor, entropy: Tensor, fields: TokenFields) -> tuple[Tensor, dict[str, Tensor]]:
    """A loss that needs all tokens of the sequence at once."""
    ratio = (logprobs - fields.old_logprobs).mean().exp()
    return fields.weight * ratio * (logprobs + entropy), {"ratio": ratio.expand(len(logprobs))}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("name", [*LOSSES, "centered"])
def test_loss_metrics_and_gradients_are_those_of_full_logits(name, temperature, dtype):
    hidden, weight, targets = leaves(dtype)
    given = fields(hidden, weight, targets, temperature)
    token_loss = LOSSES.get(name, centered)
    loss, metrics = head_loss(
        hidden, weight, targets, given, token_loss, temperature=temperature, elementwise=name in LOSSES
    )
    expected, expected_metrics, grads = full(hidden, weight, targets, given, token_loss, temperature)
    assert error(loss, expected) < TOLERANCE[dtype]
    for ours, theirs in zip(torch.autograd.grad(loss, [hidden, weight]), grads, strict=True):
        assert error(ours, theirs) < TOLERANCE[dtype]
    assert metrics.keys() == expected_metrics.keys()
    for key, value in metrics.items():
        assert value.shape == (ROWS,)
        assert not value.requires_grad
        torch.testing.assert_close(value.double(), expected_metrics[key].detach(), rtol=1e-5, atol=1e-5)


def test_some_ratios_are_clipped_in_these_tests():
    hidden, weight, targets = leaves(torch.float64)
    metrics = head_loss(hidden, weight, targets, fields(hidden, weight, targets), LOSSES["clipped"])[1]
    assert 0 < metrics["clip_fraction"].mean() < 1


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_token_logprobs_are_those_of_full_logits(dtype):
    hidden, weight, targets = leaves(dtype)
    logprobs, entropy = token_logprobs(hidden, weight, targets, temperature=0.7)
    pair = [x.detach().double().requires_grad_() for x in (hidden, weight)]
    distribution = torch.distributions.Categorical(logits=pair[0] @ pair[1].T / 0.7)
    theirs = distribution.log_prob(targets), distribution.entropy()
    for ours, expected in zip((logprobs, entropy), theirs, strict=True):
        assert error(ours, expected) < TOLERANCE[dtype]
    factors = torch.linspace(-1, 1, ROWS)
    ours = torch.autograd.grad((factors * logprobs + entropy.square()).sum(), [hidden, weight], retain_graph=True)
    expected = torch.autograd.grad((factors * theirs[0] + theirs[1].square()).sum(), pair, retain_graph=True)
    for a, b in zip(ours, expected, strict=True):
        assert error(a, b) < TOLERANCE[dtype]
    only_entropy = torch.autograd.grad(entropy.sum(), [hidden, weight])
    for a, b in zip(only_entropy, torch.autograd.grad(theirs[1].sum(), pair), strict=True):
        assert error(a, b) < TOLERANCE[dtype]


@pytest.mark.parametrize(("rows", "vocabulary"), [(1, 41), (7, 1), (8, 3), (30, 1003)])
def test_odd_shapes(rows, vocabulary):
    hidden, weight, targets = leaves(torch.float64, rows, vocabulary)
    given = fields(hidden, weight, targets)
    loss, _ = head_loss(hidden, weight, targets, given, LOSSES["all"])
    expected, _, grads = full(hidden, weight, targets, given, LOSSES["all"])
    torch.testing.assert_close(loss, expected)
    for ours, theirs in zip(torch.autograd.grad(loss, [hidden, weight]), grads, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("elementwise", [True, False])
def test_without_a_token_gradients_are_zero_and_not_missing(elementwise):
    hidden, weight, targets = leaves(torch.float32)
    given = fields(hidden, weight, targets)
    names = ("advantages", "old_logprobs", "ref_logprobs", "weight", "entropy_weight", "task_ids")
    none = TokenFields(*(getattr(given, name)[:0] for name in names))
    loss, metrics = head_loss(hidden[:0], weight, targets[:0], none, LOSSES["all"], elementwise=elementwise)
    loss.backward()
    assert loss.item() == 0
    assert hidden.grad is not None
    assert weight.grad is not None
    assert weight.grad.abs().max() == hidden.grad.abs().max() == 0
    assert {value.shape for value in metrics.values()} == {(0,)}
    assert {"nll", "entropy", "loss", "kl", "clip_fraction"} <= metrics.keys()


def linear(logprobs: Tensor, entropy: Tensor, fields: TokenFields) -> tuple[Tensor, dict[str, Tensor]]:
    return fields.weight * logprobs + fields.entropy_weight * entropy, {}


@pytest.mark.parametrize("scale", [1e4, 1e30])
def test_extreme_logits_stay_exact_and_finite(scale):
    _, weight, targets = leaves(torch.float32)
    with torch.no_grad():
        weight[::3] *= scale
    # One-hot hidden states, so that the logits are the weight's own numbers and exact in float32.
    hidden = torch.eye(WIDTH).repeat(4, 1)[:ROWS].requires_grad_()
    given = fields(hidden, weight, targets)
    loss, metrics = head_loss(hidden, weight, targets, given, linear)
    expected, expected_metrics, grads = full(hidden, weight, targets, given, linear)
    assert metrics["nll"].max() > scale
    for name in ("nll", "entropy"):
        torch.testing.assert_close(metrics[name].double(), expected_metrics[name].detach(), rtol=1e-5, atol=1e-5)
    assert error(loss, expected) < 1e-5
    for ours, theirs in zip(torch.autograd.grad(loss, [hidden, weight]), grads, strict=True):
        assert ours.isfinite().all()
        assert error(ours, theirs) < 1e-5


def test_transposed_weight_and_rows_of_a_larger_tensor():
    hidden, weight, targets = leaves(torch.float64)
    given = fields(hidden, weight, targets)
    transposed = weight.detach().T.contiguous().T.requires_grad_()
    wide = torch.cat([hidden, hidden], dim=1).detach().requires_grad_()
    assert not transposed.is_contiguous()
    expected, _, grads = full(hidden, weight, targets, given, LOSSES["all"])
    for elementwise in (True, False):
        loss, _ = head_loss(wide[:, :WIDTH], transposed, targets, given, LOSSES["all"], elementwise=elementwise)
        torch.testing.assert_close(loss, expected)
        ours = torch.autograd.grad(loss, [wide, transposed])
        torch.testing.assert_close(ours[0][:, :WIDTH], grads[0])
        torch.testing.assert_close(ours[1], grads[1])


def test_weight_tied_to_the_embedding_gets_both_gradients():
    _, weight, targets = leaves(torch.float64)
    given = fields(weight[targets], weight, targets)
    tokens = targets.flip(0)
    loss, _ = head_loss(weight[tokens].sin(), weight, targets, given, LOSSES["all"])
    logprobs, entropy = logits_stats(weight[tokens].sin() @ weight.T, targets)
    expected = LOSSES["all"](logprobs, entropy, given)[0].sum()
    torch.testing.assert_close(*(torch.autograd.grad(x, weight)[0] for x in (loss, expected)))


def test_what_needs_no_gradient_gets_none():
    hidden, weight, targets = leaves(torch.float64)
    given = fields(hidden, weight, targets)
    *_, grads = full(hidden, weight, targets, given, LOSSES["all"])
    for frozen, learning, expected in ((weight, hidden, grads[0]), (hidden, weight, grads[1])):
        frozen.requires_grad_(False)
        loss, _ = head_loss(hidden, weight, targets, given, LOSSES["all"])
        loss.backward()
        assert frozen.grad is None
        torch.testing.assert_close(learning.grad, expected)
        frozen.requires_grad_()
        learning.grad = None
    with torch.no_grad():
        assert not head_loss(hidden, weight, targets, given, LOSSES["all"])[0].requires_grad


def test_the_products_that_a_gradient_needs(monkeypatch):
    counts = []
    product, add_product = tiles.Head._product, tiles.Head._add_product
    monkeypatch.setattr(tiles.Head, "_product", lambda self, *args: counts.append(1) or product(self, *args))
    monkeypatch.setattr(tiles.Head, "_add_product", lambda self, *args: counts.append(1) or add_product(self, *args))

    def products(learning: list[int], elementwise: bool) -> float:
        *pair, targets = leaves(torch.float32)
        for number, leaf in enumerate(pair):
            leaf.requires_grad_(number in learning)
        counts.clear()
        given = fields(*pair, targets)
        loss, _ = head_loss(*pair, targets, given, LOSSES["all"], elementwise=elementwise)
        if learning:
            loss.backward()
        return len(counts) / 5

    assert [products(learning, True) for learning in ([0, 1], [0], [])] == [3, 2, 1]
    assert products([0, 1], False) == 4


def test_gradients_accumulate_and_scale():
    hidden, weight, targets = leaves(torch.float64)
    given = fields(hidden, weight, targets)
    for factor in (3.0, 0.5):
        (factor * head_loss(hidden, weight, targets, given, LOSSES["all"])[0]).backward()
    *_, grads = full(hidden, weight, targets, given, LOSSES["all"])
    torch.testing.assert_close(hidden.grad, 3.5 * grads[0])
    torch.testing.assert_close(weight.grad, 3.5 * grads[1])


def test_a_second_backward_says_what_is_wrong():
    hidden, weight, targets = leaves(torch.float64)
    loss, _ = head_loss(hidden, weight, targets, fields(hidden, weight, targets), LOSSES["clipped"])
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="differentiated twice"):
        loss.backward()


@pytest.mark.parametrize("elementwise", [True, False])
@pytest.mark.parametrize("types", [(torch.bfloat16, torch.bfloat16), (torch.bfloat16, torch.float32)])
def test_half_precision_is_multiplied_in_float32(types, elementwise):
    hidden, weight, targets = leaves(torch.float32)
    hidden, weight = (x.detach().to(t).requires_grad_() for x, t in zip((hidden, weight), types, strict=True))
    given = cast(fields(hidden, weight, targets), torch.float32)
    loss, metrics = head_loss(hidden, weight, targets, given, LOSSES["all"], elementwise=elementwise)
    expected, expected_metrics, grads = full(hidden, weight, targets, given, LOSSES["all"])
    assert metrics["nll"].dtype == torch.float32
    torch.testing.assert_close(metrics["nll"].double(), expected_metrics["nll"].detach(), atol=1e-5, rtol=0)
    assert error(loss, expected) < 1e-5
    # The gradients are as exact as their own type holds them.
    for leaf, ours, theirs in zip((hidden, weight), torch.autograd.grad(loss, [hidden, weight]), grads, strict=True):
        assert ours.dtype == leaf.dtype
        assert error(ours, theirs) < (1e-5 if leaf.dtype == torch.float32 else 4e-3)


@pytest.mark.parametrize("elementwise", [True, False])
def test_autocast_rounds_no_logit(elementwise):
    hidden, weight, targets = leaves(torch.float32)
    given = fields(hidden, weight, targets)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, _ = head_loss(hidden, weight, targets, given, LOSSES["all"], elementwise=elementwise)
    expected, _, grads = full(hidden, weight, targets, given, LOSSES["all"])
    assert error(loss, expected) < 1e-5
    for ours, theirs in zip(torch.autograd.grad(loss, [hidden, weight]), grads, strict=True):
        assert error(ours, theirs) < 1e-5
