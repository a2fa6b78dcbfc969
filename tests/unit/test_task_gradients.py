"""The gradient of each task against a full backward by hand."""

import dataclasses
from functools import partial
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from helpers.build import data, module, trainer

from lit_g2rpo.experience import Microbatch
from lit_g2rpo.objectives import G2RPO
from lit_g2rpo.training.task_gradients import measured_parameters, rows_of_task, task_gradients

LAST = "layers.3."
# a small step, so that no clip decides
SMALL_STEP = partial(torch.optim.SGD, lr=1e-4)


class Probe(pl.Callback):
    """Measure one micro-batch after an optimizer step, and keep what must not change."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        policy = pl_module.policy
        for parameter in policy.parameters():
            parameter.grad = torch.full_like(parameter, 0.5)
        before = {n: w.clone() for n, w in policy.state_dict().items()}
        counters, state = dataclasses.replace(policy.backbone.counters), torch.get_rng_state()
        self.microbatch = pl_module.experience.microbatches[0]
        self.found = task_gradients(pl_module, self.microbatch)
        assert policy.backbone.counters == counters
        assert torch.equal(torch.get_rng_state(), state)
        for name, weight in policy.state_dict().items():
            assert torch.equal(weight, before[name]), name
        assert all((parameter.grad == 0.5).all() for parameter in policy.parameters())
        self.empty = task_gradients(pl_module, rows_of_task(self.microbatch, "no such task"))
        self.whole = self.by_hand(pl_module)

    def by_hand(self, run):
        """Norm per task from a backward of the whole micro-batch with the weights of other tasks set to 0."""
        norms = {}
        for k, name in enumerate(run.tasks):
            fields = self.microbatch.fields
            mine = fields.task_ids == k
            if not mine.any():
                continue
            fields = dataclasses.replace(
                fields, weight=fields.weight * mine, entropy_weight=fields.entropy_weight * mine
            )
            run.policy.zero_grad()
            part = Microbatch(self.microbatch.prompts, self.microbatch.token_ids, fields)
            run.policy.loss(part, run.objective.token_loss)[0].backward()
            squares = [p.grad.double().square().sum() for n, p in run.policy.named_parameters() if LAST in n]
            norms[name] = float(torch.stack(squares).sum().sqrt()), int(mine.sum())
        return norms


@pytest.mark.usefixtures("varied_rewards")
@pytest.mark.parametrize("options", [{"entropy_coefficient": 0.5, "length_weight": 0.1}, {"loss": "gspo"}])
def test_norms_are_those_of_a_full_backward(random_folder: str, tmp_path: Path, options) -> None:
    probe = Probe()
    run = module(random_folder, G2RPO(filtering="off", **options))
    run.optimizer = SMALL_STEP
    trainer(tmp_path, 1, callbacks=[probe], accumulate_grad_batches=4).fit(run, data())
    assert len(probe.found) == len(probe.whole) > 2
    for name, (norm, tokens) in probe.whole.items():
        assert probe.found[name].norm == pytest.approx(norm, rel=1e-4)
        assert probe.found[name].tokens == tokens
        assert norm > 1e-4
    assert probe.empty == {}


def test_only_what_learns_in_the_last_layer_is_measured(random_folder: str, tmp_path: Path) -> None:
    run = module(random_folder)
    run.configure_model()
    names = {id(parameter): name for name, parameter in run.policy.named_parameters()}
    found = [names[id(parameter)] for parameter in measured_parameters(run.policy)]
    assert found
    assert all(f"language_model.{LAST}" in name for name in found)
    run.policy.requires_grad_(False)
    assert measured_parameters(run.policy) == []
