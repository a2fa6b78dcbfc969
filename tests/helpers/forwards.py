"""Policies that learn from the same micro-batches and sample the same completions, with different tensor shapes."""

from typing import Any

import torch
from torch import Tensor

from lit_g2rpo.experience import Completion, Microbatch, Prompt
from lit_g2rpo.objectives import G2RPO
from lit_g2rpo.objectives.fields import TokenFields
from lit_g2rpo.policy.config import PolicyConfig
from lit_g2rpo.policy.loading import load_policy
from lit_g2rpo.policy.policy import Policy

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-9}
FROZEN: list[Any] = ["vision", "merger"]
OBJECTIVE = G2RPO(entropy_coefficient=0.1, kl_coefficient=0.05)
# rows of each group; groups are interleaved, and some completions have one token
LENGTHS = {"text": [4, 1, 9], "one": [1, 1], "two": [12, 3, 5, 7], "long": [6]}


def batch(prompts: list[Prompt], dtype: torch.dtype, lengths: dict[str, list[int]] = LENGTHS) -> Microbatch:
    generator = torch.Generator().manual_seed(0)
    rows = [(prompt, n) for prompt in prompts for n in lengths[prompt.id]]
    rows = [rows[i] for i in torch.randperm(len(rows), generator=generator).tolist()]
    tokens = [torch.randint(20, 200, (n,), generator=generator) for _, n in rows]
    count = sum(len(ids) for ids in tokens)

    def noise() -> Tensor:
        return torch.randn(count, generator=generator, dtype=torch.float64).to(dtype)

    old, ref = (-5 + 0.5 * noise() for _ in range(2))  # log 240 is about 5.5: ratios on both sides of the clips
    task_ids = torch.zeros(count, dtype=torch.long)
    weight = torch.full((count,), 1 / max(count, 1), dtype=dtype)
    return Microbatch([p for p, _ in rows], tokens, TokenFields(noise(), old, ref, weight, noise() / 50, task_ids))


def load(folder: str, packing: bool, dtype: torch.dtype = torch.float32, **options: Any) -> Policy:
    torch.manual_seed(0)  # start adapters at random values
    policy = load_policy(PolicyConfig(path=folder, packing=packing, **options)).to(dtype).train()
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return policy


def learn(policy: Policy, *microbatches: Microbatch) -> tuple[Tensor, dict[str, Tensor]]:
    losses = [policy.loss(microbatch, OBJECTIVE.token_loss)[0] for microbatch in microbatches]
    torch.stack(losses).sum().backward()
    gradients = {n: p.grad for n, p in policy.named_parameters() if p.requires_grad}
    assert all(gradient is not None for gradient in gradients.values())
    return torch.stack(losses).sum().detach(), gradients


def assert_equal(
    ours: tuple[Tensor, dict[str, Tensor]], theirs: tuple[Tensor, dict[str, Tensor]], dtype: torch.dtype
) -> None:
    torch.testing.assert_close(ours[0], theirs[0], rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    assert ours[1].keys() == theirs[1].keys()
    for name, expected in theirs[1].items():
        assert expected.norm() > 1e-6, name  # comparing zeros would prove nothing
        assert (ours[1][name] - expected).norm() / expected.norm() < TOLERANCE[dtype], name


def assert_same(ours: list[Completion], theirs: list[Completion], atol: float = 1e-5) -> None:
    assert [c.token_ids.tolist() for c in ours] == [c.token_ids.tolist() for c in theirs]
    assert [(c.text, c.truncated) for c in ours] == [(c.text, c.truncated) for c in theirs]
    for name in ("logprobs", "entropy"):
        values = (torch.cat([getattr(c, name) for c in side]) for side in (ours, theirs))
        torch.testing.assert_close(*values, atol=atol, rtol=0)
