"""Count what PyTorch/XLA compiles on the processor: sampling and learning in fixed shapes, over random batches.

Run it in the environment that ``tests/xla.sh`` makes: ``PJRT_DEVICE=CPU python benchmarks/xla_compiles.py``. A batch is
a rollout of 12 prompts x 4 completions of the mini tasks with its two optimizer steps. The first rollouts compile, then
every size that a micro-batch may have is run once; what compiles after that is an error of the shapes.
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

import lit_g2rpo.strategies  # noqa: F401 (registers names)
from lit_g2rpo.experience import Microbatch
from lit_g2rpo.mini.data import MiniPrompts
from lit_g2rpo.module import G2RPOModule
from lit_g2rpo.objectives import G2RPO
from lit_g2rpo.policy.buckets import bucket
from lit_g2rpo.policy.config import PolicyConfig
from lit_g2rpo.rollout.config import EvaluationConfig, RolloutConfig, UpdateConfig

WARM_UP = 6
"""Rollouts before sizes are run one by one: sampling has its few shapes from them."""


@dataclass
class Counts(pl.Callback):
    """Counts compilations and pads while a run goes on.

    Args:
        batches: rollouts that are counted.
    """

    batches: int
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
            run_every_size(module)
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


def run_every_size(module: Any) -> None:
    """Run an empty micro-batch and one of each size from 0.7 to 1.3 times what there is; no weight changes."""
    microbatches = module.experience.microbatches
    tokens = [size_of(module, microbatch) for microbatch in microbatches]
    whole = microbatches[0]
    for other in microbatches[1:]:
        whole = joined(whole, other)
    seen: set[int] = set()
    for rows in range(len(whole.prompts) + 1):
        part = first_rows(whole, rows)
        size = size_of(module, part)
        if bucket(size) in seen or (rows and not 0.7 * min(tokens) <= size <= 1.3 * max(tokens)):
            continue
        seen.add(bucket(size))
        loss, _ = module.policy.loss(part, module.objective.token_loss)
        module.trainer.strategy.backward(loss, None)
        module.zero_grad()


def size_of(module: Any, microbatch: Microbatch) -> int:
    """Tokens of a micro-batch as one sequence."""
    prompts = {id(prompt): len(module.policy.encode(prompt).input_ids) for prompt in microbatch.prompts}
    return sum(prompts.values()) + sum(len(tokens) - 1 for tokens in microbatch.token_ids)


def first_rows(microbatch: Microbatch, rows: int) -> Microbatch:
    """Cut a micro-batch behind its first rows."""
    count = sum(map(len, microbatch.token_ids[:rows]))
    values = {f.name: getattr(microbatch.fields, f.name) for f in fields(microbatch.fields)}
    cut = {name: value[:count] for name, value in values.items() if value is not None}
    return Microbatch(microbatch.prompts[:rows], microbatch.token_ids[:rows], replace(microbatch.fields, **cut))


def joined(first: Microbatch, second: Microbatch) -> Microbatch:
    """Join two micro-batches."""
    both = {f.name: (getattr(first.fields, f.name), getattr(second.fields, f.name)) for f in fields(first.fields)}
    cats = {name: torch.cat(pair) for name, pair in both.items() if pair[0] is not None}
    return Microbatch(
        [*first.prompts, *second.prompts],
        [*first.token_ids, *second.token_ids],
        replace(first.fields, **cats),
    )


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
        update=UpdateConfig(microbatches=2),
        evaluation=EvaluationConfig(),
    )
    trainer = pl.Trainer(
        strategy="g2rpo_xla", accelerator="xla", devices=1, max_steps=2 * (WARM_UP + batches), max_epochs=-1,
        gradient_clip_val=1.0, callbacks=[counts], logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, limit_val_batches=0, default_root_dir=folder,
    )  # fmt: skip
    data = MiniPrompts(rollouts_per_epoch=1000, max_completion_tokens=24)
    trainer.fit(module, data)
    return {
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
