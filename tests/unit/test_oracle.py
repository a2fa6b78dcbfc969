"""One training step of the trainer against the one-file example on Hugging Face's own forward, in float64."""

import copy
import importlib.util
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from helpers.build import data, module, trainer, varied_score
from helpers.paths import ROOT

from lit_g2rpo.objectives import G2RPO
from lit_g2rpo.policy.encoding import collate

EXAMPLE = ROOT / "examples" / "minimal_g2rpo.py"


class Capture(pl.Callback):
    """Keep loss and gradient of the first optimizer step."""

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        self.gradients = {n: p.grad.clone() for n, p in pl_module.policy.named_parameters()}


def fetch_example() -> Any:
    spec = importlib.util.spec_from_file_location("minimal_g2rpo", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    return example


@pytest.mark.usefixtures("varied_rewards")
# The model rounds to float32 inside its norms, so what is packed differently can differ by that much.
@pytest.mark.parametrize(("kl", "packing", "tolerance"), [(0.0, False, 1e-8), (0.05, False, 1e-8), (0.05, True, 1e-6)])
def test_one_step_equals_the_example(
    random_folder: str, tmp_path: Path, kl: float, packing: bool, tolerance: float
) -> None:
    example = fetch_example()
    objective = G2RPO(
        filtering="off", entropy_coefficient=0.02, length_weight=0.1, kl_coefficient=kl, advantage_key="task"
    )
    run = module(
        random_folder,
        objective,
        rollout={"old_logprobs": "recompute", "prompts": 6, "group_size": 4},
        update={"microbatches": 1},
        packing=packing,
    )
    run.configure_model()
    run.policy.double()
    if run.reference is not None:
        run.reference.double()
        with torch.no_grad():  # a reference equal to the policy would hide the KL term
            for weight in run.reference.parameters():
                weight.mul_(1.01)
    before, reference = copy.deepcopy(run.policy), copy.deepcopy(run.reference)
    capture = Capture()
    source = data(max_completion_tokens=10)
    source.tasks["ocr"].length = None
    fit = trainer(tmp_path, 1, callbacks=[capture], accumulate_grad_batches=1, gradient_clip_val=None)
    fit.fit(run, source)
    experience = run.experience
    assert experience is not None

    # The example's own account of the same completions, from the texts on.
    prompts = [p for p in experience.prompts for _ in range(4)]
    tokens = [c.token_ids for c in experience.completions]
    names = list(source.tasks)
    tasks, groups = [names.index(p.task) for p in prompts], [i // 4 for i in range(len(prompts))]
    rewards = []
    for prompt, completion in zip(prompts, experience.completions, strict=True):
        result, band = varied_score(completion.text, prompt.sample), source.tasks[prompt.task].length
        share = result.accuracy
        if band is not None:
            share = example.length_reward(len(completion.token_ids), band.minimum, band.low, band.high, band.maximum)
        rewards.append(0.8 * result.accuracy + 0.1 * result.format + 0.1 * share)
    advantages = torch.tensor(example.gaussian_advantages(rewards, groups, tasks), dtype=torch.float64)
    assert advantages.abs().max() > 1

    def forward(policy: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        batch = collate([policy.encode(p) for p in prompts], tokens, policy.pad_token_id, side="right")
        logits = policy.base(**batch, use_cache=False).logits.double()
        longest = max(len(t) for t in tokens)
        mask = torch.zeros(len(tokens), longest, dtype=torch.bool)
        rows, targets = [], torch.zeros(len(tokens), longest, dtype=torch.long)
        for i, (prompt, ids) in enumerate(zip(prompts, tokens, strict=True)):
            start = len(policy.encode(prompt).input_ids) - 1
            rows.append(torch.nn.functional.pad(logits[i, start : start + len(ids)], (0, 0, 0, longest - len(ids))))
            mask[i, : len(ids)], targets[i, : len(ids)] = True, ids
        return *example.token_statistics(torch.stack(rows), targets), mask

    logprobs, entropy, mask = forward(before)
    task_ids = torch.tensor(tasks)
    with torch.no_grad():
        ref = forward(reference)[0] if reference is not None else None
    directions = {
        t: example.entropy_direction(
            float(torch.cat([c.entropy for c, k in zip(experience.completions, tasks, strict=True) if k == t]).mean()),
            source.tasks[name].entropy.low,
            source.tasks[name].entropy.high,
        )
        for t, name in enumerate(names)
    }
    assert any(directions.values())
    loss = example.g2rpo_loss(
        logprobs, logprobs.detach(), advantages, mask, entropy, task_ids,
        kept=torch.ones_like(task_ids, dtype=torch.bool),
        entropy_directions=directions, ref_logprobs=ref, kl_coefficient=kl, entropy_coefficient=0.02,
    )  # fmt: skip
    loss.backward()
    assert float(fit.callback_metrics["train/loss"]) == pytest.approx(loss.item(), abs=1e-7)  # logged in float32
    assert max(g.abs().max() for g in capture.gradients.values()) > 1e-3
    for name, parameter in before.named_parameters():
        torch.testing.assert_close(capture.gradients[name], parameter.grad, atol=tolerance, rtol=tolerance, msg=name)
