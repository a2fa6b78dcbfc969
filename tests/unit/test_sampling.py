"""Randomness from counters, and the draw of a token against a search by hand."""

import numpy as np
import pytest
import torch
from torch.distributions import Categorical

from lit_g2rpo.rollout.engine import Sampling
from lit_g2rpo.rollout.sampling import draw, draw_with_stats, uniforms

NOTHING = torch.tensor([], dtype=torch.long)


def test_every_counter_changes_the_draw() -> None:
    base = uniforms(Sampling(6), "a", 0)
    others = [
        uniforms(Sampling(6, seed=1), "a", 0),
        uniforms(Sampling(6, rollout=1), "a", 0),
        uniforms(Sampling(6, wave=1), "a", 0),
        uniforms(Sampling(6), "b", 0),
        uniforms(Sampling(6), "a", 1),
    ]
    assert all(not np.array_equal(base, other) for other in others)
    assert np.array_equal(base, uniforms(Sampling(6), "a", 0))
    assert np.array_equal(base[:3], uniforms(Sampling(3), "a", 0))


def test_draw_follows_the_distribution() -> None:
    logits = torch.log(torch.tensor([0.5, 0.0, 0.3, 0.2]))
    grid = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000

    def shares(sampling: Sampling, forbidden: torch.Tensor = NOTHING) -> list[float]:
        tokens = draw(logits.expand(len(grid), -1), grid, sampling, forbidden)
        return (torch.bincount(tokens, minlength=4) / len(grid)).tolist()

    assert shares(Sampling(1)) == pytest.approx([0.5, 0, 0.3, 0.2], abs=1e-3)
    assert shares(Sampling(1, top_k=2)) == pytest.approx([0.625, 0, 0.375, 0], abs=1e-3)
    assert shares(Sampling(1, top_p=0.75)) == pytest.approx([0.625, 0, 0.375, 0], abs=1e-3)
    assert shares(Sampling(1, top_p=0.4)) == pytest.approx([1, 0, 0, 0], abs=1e-3)
    assert shares(Sampling(1), torch.tensor([0])) == pytest.approx([0, 0, 0.6, 0.4], abs=1e-3)
    assert shares(Sampling(1, temperature=0.5)) == pytest.approx([25 / 38, 0, 9 / 38, 4 / 38], abs=1e-3)
    top = draw(logits[None], torch.tensor([1 - 1e-17], dtype=torch.float64), Sampling(1), NOTHING)
    assert top.item() == 3


@pytest.mark.parametrize("temperature", [1.0, 0.5, 0.0])
def test_stats_are_those_of_the_whole_distribution(temperature: float) -> None:
    torch.manual_seed(0)
    logits, uniform = 3 * torch.randn(50, 301), torch.rand(50, dtype=torch.float64)
    sampling, forbidden = Sampling(1, temperature, top_p=0.8, top_k=9), torch.tensor([4, 7])
    tokens, logprobs, entropy = draw_with_stats(logits, uniform, sampling, forbidden)
    exact = Categorical(logits=logits.double() / (temperature or 1.0))
    torch.testing.assert_close(logprobs.double(), exact.log_prob(tokens), atol=2e-6, rtol=0)
    torch.testing.assert_close(entropy.double(), exact.entropy(), atol=5e-6, rtol=0)
    assert torch.equal(tokens, draw(logits, uniform, sampling, forbidden))


def test_a_large_vocabulary_is_searched_exactly() -> None:
    torch.manual_seed(1)
    logits, uniform = 2 * torch.randn(20, 151_936), torch.rand(20, dtype=torch.float64)
    tokens = draw(logits, uniform, Sampling(1), torch.tensor([5, 100_000]))
    for row, number, token in zip(logits.double().numpy(), uniform.tolist(), tokens.tolist(), strict=True):
        weights = np.exp(row - row.max())
        weights[[5, 100_000]] = 0
        below = weights[:token].sum() / weights.sum()
        assert below - 1e-6 <= number <= below + weights[token] / weights.sum() + 1e-6


def test_greedy_breaks_no_tie_that_logits_do_not_have() -> None:
    # both log-probabilities round to the same number; the logits do not
    logits = torch.tensor([[1.0, 1.0 + 2**-23] + [0.0] * 2000])
    assert logits.log_softmax(-1)[0, 0] == logits.log_softmax(-1)[0, 1]
    uniform = torch.zeros(1, dtype=torch.float64)
    assert draw(logits, uniform, Sampling(1, temperature=0), NOTHING).item() == 1
