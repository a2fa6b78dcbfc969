"""Count what PyTorch/XLA compiles on the processor: sampling and learning in fixed shapes, over random batches.

Run it in the environment that ``tests/xla.sh`` makes: ``PJRT_DEVICE=CPU python benchmarks/xla_compiles.py``. A batch is
a rollout of 12 prompts x 4 completions of the mini tasks with its two optimizer steps. The first rollouts compile, then
every size that images and micro-batches may have is run once; what compiles after that is an error of the shapes.
"""

import argparse
import tempfile
import time
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from common import machine, write_json
from lightning.pytorch.loops.optimization.automatic import ClosureResult

import lit_g2rpo.strategies  # noqa: F401 (registers names)
from lit_g2rpo.experience import Microbatch
from lit_g2rpo.mini.data import MiniPrompts
from lit_g2rpo.module import G2RPOModule
from lit_g2rpo.objectives import G2RPO
from lit_g2rpo.policy.buckets import bucket
from lit_g2rpo.policy.config import PolicyConfig
from lit_g2rpo.policy.static_vision import host_features
from lit_g2rpo.rollout.config import EvaluationConfig, RolloutConfig, UpdateConfig

WARM_UP = 6
"""Rollouts before sizes are run one by one: sampling has its few shapes from them."""

MICROBATCHES = 2
"""Optimizer steps of a rollout, a micro-batch each."""


@dataclass
class Counts(pl.Callback):
    """Counts compilations and pads while a run goes on.

    Args:
        batches: rollouts that are counted.
    """

    batches: int
    sizes: int = 0
    warm_up: int = 0
    after: int = 0
    warm_up_seconds: float = 0.0
    seconds: float = 0.0
    waste: float = 0.0

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, index: int) -> None:
        """Look at the counters once a rollout has been learned from."""
        if batch[1] + 1 < module.microbatches_per_rollout:
            return
        if module.rollout_index == WARM_UP:
            self.sizes = run_every_size(module)
            self.warm_up, self.warm_up_seconds = compilations(), time.process_time()
            module.policy.counters.train_padded_tokens = module.policy.counters.train_passes = 0
            self._start = tokens_of(module)
        elif module.rollout_index == WARM_UP + self.batches:
            self.after = compilations() - self.warm_up
            self.seconds = (time.process_time() - self.warm_up_seconds) / self.batches
            self.waste = module.policy.counters.train_padded_tokens / (tokens_of(module) - self._start)


def compilations() -> int:
    """Graphs compiled so far."""
    from torch_xla.debug import metrics

    return int(metrics.counter_value("UncachedCompile") or 0)


def fallbacks() -> list[str]:
    """Operations that left the device, but for reading a number."""
    from torch_xla.debug import metrics

    return [name for name in metrics.counter_names() if name.startswith("aten::") and "_local_scalar" not in name]


def tokens_of(module: Any) -> int:
    """Tokens that training has learned from so far."""
    return int(module.policy.counters.train_prompt_tokens + module.policy.counters.train_completion_tokens)


def run_every_size(module: Any) -> int:
    """Run the tower on every size of images, and an empty micro-batch and one of each size; no weight changes.

    Args:
        module: the LightningModule behind a training step.

    Returns:
        Sizes of micro-batches, the empty one's among them.
    """
    policy, fields_of = module.policy, module.experience.microbatches[0].fields
    rows = [policy.encode(prompt) for prompt in module.experience.prompts]
    images = [replace(row, features=None) for row in rows if row.pixel_values is not None]
    for count in range(1, len(images) + 1):
        with torch.no_grad():
            host_features(policy, [replace(row) for row in images[:count]])
    prompt = min(module.experience.prompts, key=lambda prompt: len(policy.encode(prompt).input_ids))
    shortest, longest = len(policy.encode(prompt).input_ids), max(len(row.input_ids) for row in rows)
    rollout = module.rollout
    most = rollout.prompts // MICROBATCHES * (longest + rollout.group_size * (module.max_tokens - 1))
    sizes = [0, *sorted({bucket(size) for size in range(shortest, most + 1)})]
    for size in sizes:
        # one completion, as long as it takes: its last token predicts nothing
        count = max(size - shortest + 1, 0)
        tokens = [torch.full((count,), policy.pad_token_id)] if count else []
        values = {f.name: getattr(fields_of, f.name) for f in fields(fields_of)}
        zeros = {name: value.new_zeros(count) for name, value in values.items() if value is not None}
        microbatch = Microbatch([prompt] * len(tokens), tokens, replace(fields_of, **zeros))
        loss, _ = policy.loss(microbatch, module.objective.token_loss)
        # as the trainer does it: operations of its own would make other graphs
        result = ClosureResult.from_training_step_output(loss)
        module.trainer.strategy.backward(result.closure_loss, None)
        module.zero_grad()
    return len(sizes)


def measure(path: str, folder: Path, batches: int) -> dict[str, float]:
    """Train for some rollouts and count.

    Args:
        path: the policy's checkpoint.
        folder: where the trainer may write.
        batches: rollouts after the warm-up.

    Returns:
        The figures of the table.
    """
    counts = Counts(batches)
    module = G2RPOModule(
        policy=PolicyConfig(path=path, freeze=["vision", "merger"]),
        objective=G2RPO(filtering="off"),
        optimizer=partial(torch.optim.AdamW, lr=1e-4),
        rollout=RolloutConfig(prompts=12, group_size=4),
        update=UpdateConfig(microbatches=MICROBATCHES),
        evaluation=EvaluationConfig(),
    )
    trainer = pl.Trainer(
        strategy="g2rpo_xla", accelerator="xla", devices=1, max_steps=MICROBATCHES * (WARM_UP + batches), max_epochs=-1,
        gradient_clip_val=1.0, callbacks=[counts], logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, limit_val_batches=0, default_root_dir=folder,
    )  # fmt: skip
    data = MiniPrompts(rollouts_per_epoch=1000, max_completion_tokens=24)
    trainer.fit(module, data)
    return {
        "sizes of micro-batches, times 3": 3 * counts.sizes,
        "compilations, warm-up": counts.warm_up,
        f"compilations, {batches} batches after it": counts.after,
        "operations that left the device": len(fallbacks()),
        "pads to tokens in training": counts.waste,
        "CPU seconds a batch": counts.seconds,
    }


def main() -> None:
    """Print the table, and JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", default="package:lit_g2rpo.mini/weights", help="checkpoint")
    parser.add_argument("--batches", type=int, default=50)
    parser.add_argument("--json", type=Path, help="write the figures there too")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(arguments.policy, Path(folder), arguments.batches)
    print("| fixed shapes on PyTorch/XLA, processor | |\n|---|---|")
    for name, value in figures.items():
        print(f"| {name} | {value:.3g} |")
    write_json(arguments.json, {"machine": machine(), "figures": figures})


if __name__ == "__main__":
    main()
