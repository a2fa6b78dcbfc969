"""One or two rollouts of training on a number of processes; writes values for a test to compare.

``python tests/helpers/ddp_run.py POLICY OUT DEVICES KIND ...`` trains each kind on this many processes.
"""

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

import lit_g2rpo.rewards.running.scorer
from helpers.build import data, module, trainer, varied_score
from helpers.prompts import make_prompt
from lit_g2rpo.data.datamodule import PromptData
from lit_g2rpo.experience import Prompt
from lit_g2rpo.objectives import G2RPO, EntropyBand
from lit_g2rpo.strategies import NeuronAccelerator, NeuronDDPStrategy
from lit_g2rpo.tasks import Task


class MixedRows:
    """Rows 0, 2, 4, ... without an image, the others with one: with two ranks, one rank has no images at all."""

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> Prompt:
        return make_prompt(f"row{index}", index % 2, 1 + index % 5)

    def task_names(self) -> list[str]:
        return ["ocr"] * 12


class MixedData(PromptData):
    def default_tasks(self) -> dict[str, Task]:
        return {"ocr": Task("ocr", entropy=EntropyBand(0.1, 0.6))}

    def train_dataset(self) -> MixedRows:
        return MixedRows()

    def val_dataset(self) -> None:
        return None


class NeuronOnCPU(NeuronAccelerator):
    """The accelerator of Trainium with the CPU as its device."""

    device_type = "cpu"
    package = None

    @classmethod
    def is_available(cls) -> bool:
        return True


class Record(pl.Callback):
    """Record the loss, the gradient and the advantages of every optimizer step."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Any]] = []
        self.gradients: list[dict[str, torch.Tensor]] = []

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        self.gradients.append({n: p.grad.clone() for n, p in pl_module.policy.named_parameters()})

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        if trainer.global_step > len(self.steps):
            self.steps.append({
                "loss": float(trainer.callback_metrics["train/loss"]),
                "tokens": float(trainer.callback_metrics["train/tokens"]),
                "reward": float(trainer.callback_metrics["rollout/reward"]),
                "advantages": pl_module.experience.table.advantages.tolist(),
            })  # fmt: skip


def run(folder: str, out: Path, devices: int, kind: str) -> None:
    """Train one rollout, or two if ``uneven``.

    Args:
        folder: folder of the policy.
        out: output for the results.
        devices: number of processes.
        kind: ``mini``, ``neuron`` (the same with Trainium's code path), ``mixed``, or ``uneven``: the sizes of the
            default run, whose 18 prompts in two optimizer steps are not divisible by any even number of processes. The
            address of a server makes it ``uneven`` on that server.
    """
    torch.manual_seed(0)
    record, uneven = Record(), kind not in ("mini", "neuron", "mixed")
    sizes: dict[str, Any] = {"accumulate_grad_batches": 2, "strategy": "ddp" if devices > 1 else "auto"}
    if kind == "neuron":
        sizes |= {"strategy": NeuronDDPStrategy(process_group_backend="gloo"), "accelerator": NeuronOnCPU()}
    source: PromptData
    if kind == "mixed":
        source = MixedData(rollouts_per_epoch=1, max_completion_tokens=8)
        # Two prompts per optimizer step in two micro-batches: with two ranks, each has an empty one.
        objective = G2RPO(filtering="off", entropy_coefficient=0.05)
        run = module(folder, objective, rollout={"prompts": 8}, update={"microbatches": 8})
    elif uneven:
        source = data(max_completion_tokens=8, val_per_task=2)
        server = {} if kind == "uneven" else {"engine": "vllm_server", "engine_options": {"urls": [kind]}}
        run = module(folder, rollout={"prompts": 18, **server}, update={"microbatches": 2})
        # without state that divides a gradient by its own size, rounding errors stay small over two rollouts
        run.optimizer = partial(torch.optim.SGD, lr=0.1)
        sizes["accumulate_grad_batches"] = 1
    else:
        # 5 x 6 rows in batches of 4: the ranks run out of rows in the last batch
        source = data(max_completion_tokens=8, val_per_task=5, val_batch_size=4)
        run = module(folder)
    steps = 2 * run.update.microbatches if uneven else run.update.microbatches // 2
    fit = trainer(out, steps=steps, callbacks=[record], devices=devices, **sizes)
    fit.fit(run, source)
    validation: dict[str, float] = {}
    if kind != "mixed":
        fit.limit_val_batches = 1.0
        validation = dict(fit.validate(run, source, verbose=False)[0])
    if fit.global_rank == 0:
        out.mkdir(parents=True, exist_ok=True)
        (out / "steps.json").write_text(json.dumps(record.steps))
        (out / "validation.json").write_text(json.dumps(validation | {"rows": sum(run.validation_sizes.values())}))
        torch.save({"gradients": record.gradients, "weights": run.policy.state_dict()}, out / "tensors.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    lit_g2rpo.rewards.running.scorer.score = varied_score
    for kind in sys.argv[4:]:
        run(sys.argv[1], Path(sys.argv[2]) / kind.partition(":")[0], int(sys.argv[3]), kind)
