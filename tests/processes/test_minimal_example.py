"""The one-file example is an independent account of the method: every piece of it must agree with the library."""

import importlib.util
import re

import pytest
import torch
from helpers.paths import ROOT

from lit_g2rpo.objectives import G2RPO, EntropyBand, LengthBand
from lit_g2rpo.objectives.advantages import gaussian, normal_scores
from lit_g2rpo.objectives.fields import TokenFields
from lit_g2rpo.objectives.filtering import kept_groups
from lit_g2rpo.objectives.shaping import entropy_direction, length_reward

EXAMPLE = ROOT / "examples" / "minimal_g2rpo.py"
DOUBLE = torch.float64
EXACT = {"atol": 1e-8, "rtol": 1e-8}


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("minimal_g2rpo", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def scored(seed, levels):
    """Rewards of 24 groups of 8 with many ties, groups and tasks out of order."""
    torch.manual_seed(seed)
    groups = torch.arange(24).repeat(8)[torch.randperm(192)]
    return torch.randint(0, levels, (192,)).to(DOUBLE) / (levels - 1), groups, groups % 3


@pytest.mark.parametrize("levels", [2, 3, 10, 1000])
def test_advantages_and_filter_agree(example, levels):
    rewards, groups, tasks = scored(levels, levels)
    lists = rewards.tolist(), groups.tolist(), tasks.tolist()
    torch.testing.assert_close(
        torch.tensor(example.normal_scores(lists[0]), dtype=DOUBLE), normal_scores(rewards), **EXACT
    )
    expected = torch.tensor(example.gaussian_advantages(*lists), dtype=DOUBLE)
    torch.testing.assert_close(gaussian(rewards, groups, tasks), expected, **EXACT)
    accuracy = (rewards > 0.8).to(DOUBLE)
    kept = kept_groups(accuracy, [rewards], groups, low=0.01, high=0.99)
    assert kept.tolist() == example.keep(accuracy.tolist(), lists[0], lists[1])
    assert kept.any()


@pytest.mark.parametrize("band", [(0, 2, 4, 6), (5, 20, 40, 50), (5, 5, 30, 30), (0, 0, 40, 60)])
def test_shaping_agrees(example, band):
    lengths = torch.arange(70, dtype=DOUBLE)
    expected = torch.tensor([example.length_reward(n, *band) for n in lengths.tolist()], dtype=DOUBLE)
    torch.testing.assert_close(length_reward(lengths, LengthBand(*band)), expected, **EXACT)
    for entropy in (0.0, 0.2, 0.3, 0.6, 2.0):
        assert entropy_direction(entropy, EntropyBand(0.2, 0.6)) == example.entropy_direction(entropy, 0.2, 0.6)


@pytest.mark.parametrize("spread", [0.05, 0.5, 3.0])
@pytest.mark.parametrize("kl_coefficient", [0.0, 0.03])
def test_loss_and_gradient_of_one_step_agree(example, spread, kl_coefficient):
    rewards, groups, tasks = scored(0, 5)
    tokens = torch.randint(0, 7, (192, 9))
    mask = torch.arange(9) < torch.randint(1, 10, (192, 1))
    start = torch.randn(192, 9, 7, dtype=DOUBLE)
    old_logprobs, _ = example.token_statistics(start + spread * torch.randn_like(start), tokens)
    ref_logprobs, _ = example.token_statistics(start + spread * torch.randn_like(start), tokens)
    directions = {0: 1, 1: -1, 2: 0}
    kept = groups % 4 != 0

    logits = start.clone().requires_grad_()
    logprobs, entropy = example.token_statistics(logits, tokens)
    advantages = torch.zeros(192, dtype=DOUBLE)
    advantages[kept] = torch.tensor(
        example.gaussian_advantages(rewards[kept].tolist(), groups[kept].tolist(), tasks[kept].tolist()), dtype=DOUBLE
    )
    expected = example.g2rpo_loss(
        logprobs,
        old_logprobs,
        advantages,
        mask,
        entropy,
        tasks,
        kept=kept,
        entropy_directions=directions,
        ref_logprobs=ref_logprobs,
        kl_coefficient=kl_coefficient,
        entropy_coefficient=0.02,
    )
    expected.backward()
    expected_gradient = logits.grad

    # The library: flat over the tokens that exist, in two micro-batches whose losses add up.
    logits = start.clone().requires_grad_()
    logprobs, entropy = example.token_statistics(logits, tokens)
    objective = G2RPO(kl_coefficient=kl_coefficient, entropy_coefficient=0.02)
    advantages = gaussian(rewards, groups, tasks, valid=kept)
    slopes = torch.tensor([directions[task] / mask[tasks == task].sum().item() for task in range(3)], dtype=DOUBLE)
    total, clipped = 0.0, 0.0
    for rows in (slice(0, 70), slice(70, 192)):
        flat = mask[rows]
        per_token = tasks[rows, None].expand_as(flat)[flat]
        fields = TokenFields(
            advantages=advantages[rows, None].expand_as(flat)[flat],
            old_logprobs=old_logprobs[rows][flat],
            ref_logprobs=ref_logprobs[rows][flat],
            weight=(kept[rows, None].expand_as(flat)[flat] / mask[kept].sum()).double(),
            entropy_weight=0.02 * slopes[per_token],
            task_ids=per_token,
        )
        loss, metrics = objective.token_loss(logprobs[rows][flat], entropy[rows][flat], fields)
        loss.sum().backward(retain_graph=True)
        total, clipped = total + loss.sum().detach(), clipped + metrics["clip_fraction"].sum()
    torch.testing.assert_close(total, expected.detach(), **EXACT)
    torch.testing.assert_close(logits.grad, expected_gradient, **EXACT)
    assert logits.grad.abs().max() > 1e-4
    assert clipped > 0 or spread < 0.1


def test_the_example_stands_alone():
    assert "lit_g2rpo" not in EXAMPLE.read_text()


def test_the_example_runs_and_every_task_improves(commands):
    said = commands.python(EXAMPLE)
    lines = [[float(x) for x in re.findall(r"[a-z]+ (\d\.\d{3})", line)] for line in said.splitlines()]
    assert all(len(line) == 3 for line in lines)
    assert all(last > max(0.8, first + 0.5) for first, last in zip(lines[0], lines[-1], strict=True))
