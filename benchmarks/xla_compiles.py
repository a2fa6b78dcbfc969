"""Count PyTorch/XLA compilations on the CPU: sampling and learning in fixed shapes, over random batches.

Run it in the environment that ``tests/xla.sh`` creates: ``PJRT_DEVICE=CPU python benchmarks/xla_compiles.py``. A batch
is a rollout of 12 prompts x 4 completions of the mini tasks, learned in two micro-batches with an optimizer step each,
unless options say otherwise. The first rollouts compile; then the run learns once in each size that images and
micro-batches may have. Any later compilation is a bug in the shapes.
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
from lit_g2rpo.experience import Experience, Microbatch, Prompt
from lit_g2rpo.mini.data import MiniPrompts
from lit_g2rpo.module import G2RPOModule
from lit_g2rpo.objectives import G2RPO
from lit_g2rpo.policy.config import PolicyConfig
from lit_g2rpo.policy.fixed_shapes.buckets import bucket
from lit_g2rpo.policy.fixed_shapes.vision import host_features
from lit_g2rpo.rollout.config import EvaluationConfig, RolloutConfig, UpdateConfig

FIRST = 6
"""Rollouts before sizes run one by one; sampling gets its few shapes from them."""


@dataclass
class Counts(pl.Callback):
    """Count compilations and pads while a run goes on.

    Args:
        batches: number of counted rollouts.
    """

    batches: int
    warm_up: int = 0
    after: int = 0
    warm_up_seconds: float = 0.0
    seconds: float = 0.0
    waste: float = 0.0

    def on_train_batch_end(self, trainer: pl.Trainer, module: "WarmedUp", outputs: Any, batch: Any, index: int) -> None:
        """Read the counters after learning from a rollout."""
        if batch[1] + 1 < module.microbatches_per_rollout:
            return
        if module.sizes is None:
            return
        done = module.rollout_index - FIRST - len(module.sizes)
        if done == 0:
            self.warm_up, self.warm_up_seconds = compilations(), time.process_time()
            module.policy.backbone.counters.train_padded_tokens = module.policy.backbone.counters.train_passes = 0
            self._start = tokens_of(module)
        elif done == self.batches:
            self.after = compilations() - self.warm_up
            self.seconds = (time.process_time() - self.warm_up_seconds) / self.batches
            self.waste = module.policy.backbone.counters.train_padded_tokens / (tokens_of(module) - self._start)
            trainer.should_stop = True


def compilations() -> int:
    """Return the number of graphs compiled so far."""
    from torch_xla.debug import metrics

    return int(metrics.counter_value("UncachedCompile") or 0)


def fallbacks() -> list[str]:
    """Return the number of operations that left the device, except reading a number."""
    from torch_xla.debug import metrics

    return [name for name in metrics.counter_names() if name.startswith("aten::") and "_local_scalar" not in name]


def tokens_of(module: G2RPOModule) -> int:
    """Return the number of tokens that training has learned from so far."""
    return int(
        module.policy.backbone.counters.train_prompt_tokens + module.policy.backbone.counters.train_completion_tokens
    )


class WarmedUp(G2RPOModule):
    """A run that learns from every size after the first rollouts, in its own loop so that the graphs are the same."""

    sizes: list[int] | None = None

    def collect(self, prompts: list[Prompt]) -> Experience:
        """Sample as usual, and replace the sampled micro-batches with ones of each size in turn.

        Args:
            prompts: the prompts.

        Returns:
            The experience.
        """
        experience = super().collect(prompts)
        turn = self.rollout_index - FIRST - 1
        if turn == 0:
            self.sizes = self.every_size(experience)
        if self.sizes and 0 <= turn < len(self.sizes):
            experience.microbatches = [self.of_size(experience, self.sizes[turn])] * self.update.microbatches
        return experience

    def every_size(self, experience: Experience) -> list[int]:
        """Run the tower on every size of images, and list the sizes of micro-batches, including the empty one.

        Args:
            experience: any rollout.

        Returns:
            The sizes.
        """
        rows = [self.policy.encode(prompt) for prompt in experience.prompts]
        images = [replace(row, features=None) for row in rows if row.pixel_values is not None]
        for count in range(1, len(images) + 1):
            host_features(self.policy.backbone, [replace(row) for row in images[:count]])
        lengths = [len(row.input_ids) for row in rows]
        group = max(lengths) + self.rollout.group_size * (self.max_tokens - 1)
        most = self.rollout.prompts // self.update.microbatches * group
        return [0, *sorted({bucket(size) for size in range(min(lengths), most + 1)})]

    def of_size(self, experience: Experience, size: int) -> Microbatch:
        """Make a micro-batch that teaches nothing: the shortest prompt and one completion.

        Args:
            experience: any rollout.
            size: tokens; 0 makes an empty micro-batch.

        Returns:
            The micro-batch.
        """
        prompt = min(experience.prompts, key=lambda prompt: len(self.policy.encode(prompt).input_ids))
        # the last token predicts nothing
        count = max(size - len(self.policy.encode(prompt).input_ids) + 1, 0)
        tokens = [torch.full((count,), self.policy.pad_token_id)] if count else []
        like = experience.microbatches[0].fields
        values = {f.name: getattr(like, f.name) for f in fields(like)}
        zeros = {name: value.new_zeros(count) for name, value in values.items() if value is not None}
        return Microbatch([prompt] * len(tokens), tokens, replace(like, **zeros))


def measure(path: str, folder: Path, batches: int, update: UpdateConfig, accumulate: int) -> dict[str, float]:
    """Train for some rollouts and count.

    Args:
        path: the policy's checkpoint.
        folder: folder for the trainer's files.
        batches: rollouts after the warm-up.
        update: micro-batches per rollout.
        accumulate: micro-batches per optimizer step.

    Returns:
        The figures of the table.
    """
    counts = Counts(batches)
    module = WarmedUp(
        policy=PolicyConfig(path=path, freeze=["vision", "merger"]),
        objective=G2RPO(filtering="off"),
        optimizer=partial(torch.optim.AdamW, lr=1e-4),
        rollout=RolloutConfig(prompts=12, group_size=4),
        update=update,
        evaluation=EvaluationConfig(),
    )
    trainer = pl.Trainer(
        strategy="g2rpo_xla", accelerator="xla", devices=1, max_steps=-1, max_epochs=-1,
        accumulate_grad_batches=accumulate, gradient_clip_val=1.0, callbacks=[counts], logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        limit_val_batches=0, default_root_dir=folder,
    )  # fmt: skip
    data = MiniPrompts(rollouts_per_epoch=1000, max_completion_tokens=24)
    trainer.fit(module, data)
    return {
        "sizes of micro-batches": len(module.sizes or []),
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
    parser.add_argument("--batches", type=int, default=50, help="rollouts that are counted")
    parser.add_argument("--microbatches", type=int, default=2, help="of a rollout")
    parser.add_argument("--accumulate", type=int, default=1, help="micro-batches of an optimizer step")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        update = UpdateConfig(microbatches=arguments.microbatches)
        figures = measure(arguments.policy, Path(folder), arguments.batches, update, arguments.accumulate)
    print("| fixed shapes on PyTorch/XLA, processor | |\n|---|---|")
    for name, value in figures.items():
        print(f"| {name} | {value:.3g} |")
    write_json(arguments.json, {"machine": machine(), "figures": figures})


if __name__ == "__main__":
    main()
