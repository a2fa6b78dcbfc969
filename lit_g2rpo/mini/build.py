"""Build of the shipped policy from scratch: vision, generic lessons, then few demonstrations by imperfect annotators.

Every stage leaves a Hugging Face folder in the work folder and is skipped if that exists; an interrupted stage
continues from its last checkpoint. The supervised stages run on the project's own trainer.
"""

import hashlib
import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import lightning.pytorch as pl
import torch
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR

from lit_g2rpo.callbacks import RolloutCheckpoint, RolloutProgress
from lit_g2rpo.data.datamodule import PromptData
from lit_g2rpo.mini.lessons import MiniLessons
from lit_g2rpo.mini.policy import build_processor, initial_policy, mini_config, save_policy
from lit_g2rpo.mini.vision import train_vision
from lit_g2rpo.module import G2RPOModule
from lit_g2rpo.objectives import Supervised
from lit_g2rpo.policy.config import PolicyConfig
from lit_g2rpo.policy.loading import load_policy
from lit_g2rpo.rollout.config import EvaluationConfig, RolloutConfig, UpdateConfig

SEED = 0
BATCH = 64
CHECKPOINT_EVERY = 100
DEMONSTRATIONS = 300
"""Demonstrations per task: few, because people would have to write them."""

FINGERPRINT = "fingerprint.json"


def build(output: Path, work: Path) -> dict[str, float]:
    """Build the policy and write it as a Hugging Face folder.

    Args:
        output: folder of the policy; replaced when the build is done.
        work: folder of the stages, kept so that a build can continue.

    Returns:
        Validation metrics of the best supervised checkpoint.
    """
    shown = demonstrated(work, careful=False)
    policy = load_policy(PolicyConfig(path=str(shown)))
    draft = work / "4-shipped"
    shutil.rmtree(draft, ignore_errors=True)
    save_policy(policy.model, policy.processor, draft)
    # Written with owner-only permissions, which a file in an installed package must not have.
    (draft / "model.safetensors").chmod(0o644)
    metrics = best_metrics(shown)
    record = {"sha256": fingerprint(draft), "best_supervised": metrics}
    (draft / FINGERPRINT).write_text(json.dumps(record, indent=1) + "\n")
    shutil.rmtree(output, ignore_errors=True)
    shutil.copytree(draft, output)
    return metrics


def control(work: Path) -> dict[str, float]:
    """Repeat the last stage with flawless demonstrations, to see what supervision could reach without human errors.

    Returns:
        Validation metrics of its best checkpoint.
    """
    return best_metrics(demonstrated(work, careful=True))


def demonstrated(work: Path, careful: bool) -> Path:
    """Run the stages up to the demonstrations, and return the folder of the last one.

    Args:
        work: folder of the stages.
        careful: use demonstrations without errors.
    """
    work.mkdir(parents=True, exist_ok=True)
    seen = stage(work / "1-vision", lambda folder: vision(folder, work / "vision.pt"))
    lessons = MiniLessons(seed=SEED + 1)
    taught = stage(work / "2-lessons", partial(supervised, seen, data=lessons, steps=1300, validate=0))
    data = MiniLessons(demonstrations=DEMONSTRATIONS, seed=SEED + 2, careful=careful)
    name = "3-flawless" if careful else "3-demonstrations"
    return stage(work / name, partial(supervised, taught, data=data, steps=600, validate=100))


def best_metrics(folder: Path) -> dict[str, float]:
    """Read the validation metrics of a stage's best checkpoint."""
    metrics: dict[str, float] = json.loads((folder / "metrics.json").read_text())
    return metrics


def stage(folder: Path, run: Callable[[Path], None]) -> Path:
    """Run a stage unless its folder exists, and return the folder.

    Args:
        folder: the folder that the stage creates.
        run: writes a folder.
    """
    if not folder.exists():
        print(f"stage {folder.name}", flush=True)
        draft = folder.with_name(folder.name + ".part")
        draft.mkdir(exist_ok=True)
        run(draft)
        draft.rename(folder)
    return folder


def vision(folder: Path, checkpoint: Path) -> None:
    """Build a policy with random weights and train only its vision tower.

    Args:
        folder: folder to write the policy to.
        checkpoint: file for the state of training.
    """
    processor = build_processor()
    model = initial_policy(mini_config(processor.tokenizer), SEED)
    train_vision(model, checkpoint, steps=2000, seed=SEED)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def supervised(start: Path, folder: Path, *, data: PromptData, steps: int, validate: int, peak: float = 2e-3) -> None:
    """Imitate demonstrations, and write the best checkpoint by validation accuracy, or the last one.

    Args:
        start: the policy to start from.
        folder: folder to write the policy to.
        steps: optimizer steps.
        validate: steps between validations; 0 for none, which keeps the last checkpoint.
        peak: learning rate after warm-up, followed by cosine decay to zero.
    """
    module = G2RPOModule(
        policy=PolicyConfig(path=str(start), lr_scale={"vision": 0.25, "merger": 0.25}),
        objective=Supervised(length_power=0.5),
        optimizer=partial(torch.optim.AdamW, lr=peak, betas=(0.9, 0.98), weight_decay=0.01),
        rollout=RolloutConfig(engine="demonstrations", prompts=BATCH, group_size=1, seed=SEED),
        update=UpdateConfig(microbatches=1),
        evaluation=EvaluationConfig(),
        lr_scheduler=partial(one_cycle, steps=steps),
    )
    kept = folder / "checkpoints"
    keeper = RolloutCheckpoint(
        every_rollouts=CHECKPOINT_EVERY, monitor="val/accuracy" if validate else None, dirpath=str(kept)
    )
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=steps,
        max_epochs=-1,
        gradient_clip_val=1.0,
        callbacks=[keeper, RolloutProgress()],
        logger=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=None if validate else 0,
        val_check_interval=validate or None,
        check_val_every_n_epoch=None,
        default_root_dir=folder,
    )
    last = kept / "last.ckpt"
    trainer.fit(module, data, ckpt_path=str(last) if last.exists() else None)
    if validate:
        best = torch.load(keeper.best_model_path, weights_only=True)
        module.load_state_dict(best["state_dict"], strict=False)
        curve = {int(entry["rollout"]): entry for entry in module.validation_history}
        metrics = max(curve.values(), key=lambda entry: entry["val/accuracy"])
        (folder / "metrics.json").write_text(json.dumps(metrics, indent=1))
        (folder / "curve.json").write_text(json.dumps(module.validation_history, indent=1))
    shutil.rmtree(kept)
    module.policy.model.save_pretrained(folder)
    module.policy.processor.save_pretrained(folder)


def one_cycle(optimizer: torch.optim.Optimizer, steps: int) -> LRScheduler:
    """Warm up over 3 % of the steps, then decay to zero along a cosine, with a learning rate per part."""
    peaks = [group["lr"] for group in optimizer.param_groups]
    return OneCycleLR(optimizer, peaks, total_steps=steps, pct_start=0.03, cycle_momentum=False)


def fingerprint(folder: Path) -> str:
    """Return the SHA-256 digest of a policy folder's weights in hexadecimal."""
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
