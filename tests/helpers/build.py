"""Small runs on the mini tasks with a random policy."""

import hashlib
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from lit_g2rpo.mini.data import MiniPrompts
from lit_g2rpo.module import G2RPOModule
from lit_g2rpo.objectives import G2RPO
from lit_g2rpo.objectives.objective import Objective
from lit_g2rpo.policy.config import PolicyConfig
from lit_g2rpo.rewards import RewardResult
from lit_g2rpo.rollout.config import EvaluationConfig, RolloutConfig, UpdateConfig


def varied_score(text: str, sample: dict[str, Any], config: Any = None) -> RewardResult:
    """A reward that varies between a random policy's completions: a number from the text's digest."""
    value = hashlib.sha256(text.encode()).digest()[0] / 255
    return RewardResult(
        total=0.9 * value + 0.1, accuracy=value, format=1.0, structure=0.0, components={}, error=None, seconds=0.0
    )


def module(folder: str, objective: Objective | None = None, **sizes: Any) -> G2RPOModule:
    """A module with 12 prompts x 4 completions per rollout and 2 optimizer steps of 2 micro-batches."""
    rollout = {"prompts": 12, "group_size": 4, "seed": 7} | sizes.pop("rollout", {})
    update = {"epochs": 1, "microbatches": 4} | sizes.pop("update", {})
    return G2RPOModule(
        policy=PolicyConfig(path=folder, **sizes),
        objective=objective or G2RPO(filtering="off", entropy_coefficient=0.02, length_weight=0.1),
        optimizer=partial(torch.optim.AdamW, lr=1e-3),
        rollout=RolloutConfig(**rollout),
        update=UpdateConfig(**update),
        evaluation=EvaluationConfig(),
    )


def data(**options: Any) -> MiniPrompts:
    """Mini tasks with few validation rows and epochs of 3 rollouts."""
    defaults = {"val_per_task": 2, "train_per_task": 50, "rollouts_per_epoch": 3, "max_completion_tokens": 8}
    return MiniPrompts(**(defaults | options))


def trainer(folder: Path, steps: int, **options: Any) -> pl.Trainer:
    """A quiet CPU trainer for a number of optimizer steps."""
    defaults: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "max_steps": steps,
        "max_epochs": -1,
        "accumulate_grad_batches": 2,
        "gradient_clip_val": 1.0,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "log_every_n_steps": 1,
        "num_sanity_val_steps": 0,
        "limit_val_batches": 0,
        "default_root_dir": folder,
    }
    return pl.Trainer(**(defaults | options))
