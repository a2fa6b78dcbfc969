"""Training under a strategy: straight, resumed, evaluated, sampled unevenly, stopped; writes values for tests.

Runs once in each process: python sharded_run.py POLICY OUT DEVICES STRATEGY.
"""

import os

os.environ["DS_ACCELERATOR"] = "cpu"

import dataclasses
import itertools
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

import lit_g2rpo.rewards.running.scorer
import lit_g2rpo.training.rollout
from helpers.build import data, module, trainer, varied_score
from lit_g2rpo.callbacks import Preflight, RolloutCheckpoint
from lit_g2rpo.errors import NonFiniteError, UserError
from lit_g2rpo.hardware.hooks import generation_context
from lit_g2rpo.objectives import G2RPO
from lit_g2rpo.policy.config import LoraConfig
from lit_g2rpo.rollout.huggingface import HuggingFaceEngine

GRADIENTS = ("all_reduce", "reduce", "reduce_scatter", "reduce_scatter_tensor", "reduce_scatter_single")
WEIGHTS = ("all_gather", "all_gather_into_tensor", "all_gather_single")
LARGE = 4096
"""Size from which a tensor is assumed to be weights or gradients: metrics and flags are smaller."""
METRICS = ("train/loss", "train/grad_norm", "train/kl", "train/tokens", "rollout/reward", "rollout/length")

calls = {"gradients": 0, "weights": 0}
"""Large collectives so far."""


def count_collectives() -> None:
    def counted(kind: str, original: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            calls[kind] += any(isinstance(a, torch.Tensor) and a.numel() >= LARGE for a in (*args, *kwargs.values()))
            return original(*args, **kwargs)

        return call

    for kind, names in (("gradients", GRADIENTS), ("weights", WEIGHTS)):
        for name in names:
            if hasattr(dist, name):
                setattr(dist, name, counted(kind, getattr(dist, name)))


def counted_bucket(state: None, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
    """DDP's default hook, with a counter, since DDP does not send gradients through the functions above."""
    calls["gradients"] += 1
    return allreduce_hook(dist.group.WORLD, bucket)


def build_strategy(name: str) -> Any:
    if name.startswith("zero"):
        from lit_g2rpo.strategies import G2RPODeepSpeedStrategy

        strategy = G2RPODeepSpeedStrategy(stage=int(name[-1]))
        # as in a large policy; otherwise ZeRO-3 does not split the weights of this small one
        strategy.config["zero_optimization"]["stage3_param_persistence_threshold"] = 0
        return strategy
    if name == "fsdp2":
        from lit_g2rpo.strategies import FSDP2Strategy

        return FSDP2Strategy(process_group_backend="gloo")
    return "ddp" if name == "ddp" else "auto"


def weights(made: pl.Trainer, run: Any) -> dict[str, torch.Tensor]:
    with generation_context(made.strategy, run.policy):
        return {name: weight.detach().clone() for name, weight in run.policy.named_parameters()}


def difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    return max(float((a[name] - b[name]).abs().max()) for name in a)


class Record(pl.Callback):
    """Record metrics of optimizer steps and collectives of micro-batches, and save after a number of them."""

    def __init__(self, path: Path, save_after: int) -> None:
        self.path, self.save_after = path, save_after
        self.steps: list[dict[str, float]] = []
        self.calls: list[dict[str, int]] = []
        self.gaps: list[float] = []
        self.saved: dict[str, torch.Tensor] = {}

    def on_train_start(self, trainer: Any, *_: Any) -> None:
        if isinstance(trainer.strategy.model, DistributedDataParallel):
            trainer.strategy.model.register_comm_hook(None, counted_bucket)

    def on_train_batch_start(self, *_: Any) -> None:
        calls.update(dict.fromkeys(calls, 0))

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self.calls.append(dict(calls))
        if len(self.calls) % trainer.accumulate_grad_batches == 0:
            metrics = trainer.callback_metrics
            self.steps.append({name: float(metrics[name]) for name in METRICS if name in metrics})
            # not after a resume inside a rollout
            if "rollout/engine_gap_max" in metrics:
                self.gaps.append(float(metrics["rollout/engine_gap_max"]))
        if len(self.calls) == self.save_after:
            self.saved = weights(trainer, pl_module)
            trainer.save_checkpoint(self.path)


class Watch:
    """Count gathered weights before, inside and after a rollout's context."""

    def __init__(self) -> None:
        self.counts: list[list[int]] = []

    @contextmanager
    def __call__(self, strategy: Any, model: Any) -> Iterator[None]:
        marks = [calls["weights"]]
        with generation_context(strategy, model):
            marks.append(calls["weights"])
            yield
            marks.append(calls["weights"])
        marks.append(calls["weights"])
        self.counts.append([after - before for before, after in itertools.pairwise(marks)])


class Run:
    """Build a fresh module and trainer for every part."""

    def __init__(self, folder: str, out: Path, devices: int, name: str) -> None:
        self.folder, self.out, self.devices, self.name = folder, out, devices, name

    def fit(
        self,
        steps: int,
        path: str = "",
        save_after: int = 0,
        ckpt_path: Path | None = None,
        poison: int = -1,
        precision: str = "32-true",
        optimizer: dict[str, Any] | None = None,
        lr_scheduler: Any = None,
        **sizes: Any,
    ) -> tuple[pl.Trainer, Any, Record]:
        objective = G2RPO(filtering="off", entropy_coefficient=0.02, length_weight=0.1, kl_coefficient=0.01)
        run = module(self.folder, objective, **sizes)
        # smooth near a gradient of 0, where rounding would decide the direction of a step
        run.optimizer = partial(torch.optim.AdamW, **({"lr": 1e-3, "eps": 1e-2} | (optimizer or {})))
        run.lr_scheduler = lr_scheduler
        record = Record(self.out / path, save_after)
        # three of the four gradient norms are larger
        # a backward without a step, and a checkpoint before the first step, must leave nothing behind
        tries = save_after == 6 and self.devices > 1
        tried = [Preflight(rewards=False), RolloutCheckpoint(monitor=None)] if tries else []
        made = trainer(
            self.out, steps, callbacks=[record, *tried], gradient_clip_val=2.5, devices=self.devices,
            strategy=build_strategy(self.name), enable_checkpointing=tries, precision=precision,
        )  # fmt: skip
        if poison >= 0:
            token_loss = objective.token_loss

            def poisoned(*args: Any) -> Any:
                loss, metrics = token_loss(*args)
                bad = made.global_rank == made.world_size - 1 and made.global_step == poison
                return loss * float("nan") if bad else loss, metrics

            objective.token_loss = poisoned
        self.made, self.run = made, run
        made.fit(run, data(), ckpt_path=ckpt_path)
        return made, run, record


def main(folder: str, out: Path, devices: int, name: str) -> None:
    run, watch = Run(folder, out, devices, name), Watch()
    lit_g2rpo.training.rollout.generation_context = watch
    inside = out / "inside.ckpt"
    made, module_, straight = run.fit(4, "inside.ckpt", save_after=6)
    learned = weights(made, module_)
    assert 0 < max(straight.gaps) < 1e-3
    result: dict[str, Any] = {"steps": straight.steps, "calls": straight.calls, "native": list(watch.counts)}
    result["large"] = sum(weight.numel() >= LARGE for weight in learned.values())

    made, module_, resumed = run.fit(4, ckpt_path=inside)
    result["resumed"] = resumed.steps
    result["resume_difference"] = difference(learned, weights(made, module_))

    options = {"lr": 5e-4, "weight_decay": 0.3, "betas": (0.8, 0.9)}
    slower = partial(torch.optim.lr_scheduler.LinearLR, start_factor=0.5, total_iters=8)
    made, module_, _ = run.fit(4, ckpt_path=inside, optimizer=options, lr_scheduler=slower)
    changed = weights(made, module_)
    result["changed"] = [{key: group[key] for key in options} for group in made.optimizers[0].param_groups]
    try:
        run.fit(4, ckpt_path=inside, optimizer={"amsgrad": True})
    except UserError as error:
        result["refused"] = str(error)

    fresh = module(folder)
    judge = trainer(out, 4, devices=devices, strategy=build_strategy(name), limit_val_batches=1.0)
    result["validation"] = judge.validate(fresh, data(val_per_task=3), ckpt_path=inside, verbose=False)[0]
    result["validated_difference"] = difference(straight.saved, weights(judge, fresh))

    # the precision of its fragments, since with any other, DeepSpeed converts all weights to float32
    precision = "bf16-mixed" if name.startswith("zero") else "32-true"
    torch.manual_seed(0)
    halves: dict[str, Any] = {"dtype": "bfloat16", "lora": LoraConfig(rank=4, alpha=8), "freeze": ["vision", "merger"]}
    _, module_, adapted = run.fit(2, precision=precision, **halves)
    result["adapters"] = adapted.steps
    # half precision
    assert 0 < max(adapted.gaps) < 0.5
    result["frozen_types"] = sorted({str(w.dtype) for w in module_.policy.parameters() if not w.requires_grad})

    if name in ("zero3", "fsdp2"):
        # modules run for every token here, but rank 1 stops earlier
        watch.counts = []
        whole = HuggingFaceEngine._generate
        HuggingFaceEngine._generate = lambda engine, rows, sampling: whole(
            engine, rows, dataclasses.replace(sampling, max_tokens=8 - 4 * made.global_rank)
        )
        sizes: dict[str, Any] = {"rollout": {"engine": "huggingface"}, "freeze": ["vision", "merger"]}
        # layers gather their weights a second time there
        sizes["activation_checkpointing"] = "selective"
        _, _, uneven = run.fit(2, "frozen.ckpt", save_after=4, **sizes)
        result |= {"huggingface": list(watch.counts), "uneven": uneven.steps}
        torch.save(uneven.saved, out / f"frozen_rank{made.global_rank}.pt")
    if name == "zero2":
        run.name = "zero1"
        try:
            run.fit(4, ckpt_path=inside)
        except UserError as error:
            result["other_stage"] = str(error)
        run.name = name
    try:
        run.fit(4, poison=1)
    except NonFiniteError as error:
        result["not_finite"] = str(error)
    result["still_finite"] = all(bool(weight.isfinite().all()) for weight in weights(run.made, run.run).values())
    (out / f"result_rank{made.global_rank}.json").write_text(json.dumps(result))
    if made.global_rank == 0:
        torch.save({"learned": learned, "saved": straight.saved, "changed": changed}, out / "weights.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    count_collectives()
    lit_g2rpo.rewards.running.scorer.score = varied_score
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
