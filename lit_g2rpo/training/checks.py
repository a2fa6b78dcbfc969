"""Checks that stop a run before it learns from a number that is not one, or from another model's weights."""

import json
from collections.abc import Iterable
from functools import singledispatch
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from lit_g2rpo.errors import NonFiniteError, UserError
from lit_g2rpo.experience import Prompt
from lit_g2rpo.hardware.collectives import sum_over_ranks


def check_prompt_lengths(module: Any, prompts: list[Prompt]) -> None:
    """Refuse a prompt that is longer than the data allows; cutting it could cut through an image.

    Args:
        prompts: this rank's prompts.

    Raises:
        UserError: if a prompt is too long, its images counted.
    """
    limit = module.trainer.datamodule.max_prompt_tokens
    for prompt in prompts:
        length = len(module.policy.encode(prompt).input_ids)
        if length > limit:
            raise UserError(
                f"row {prompt.id}: its prompt has {length} tokens with its images; data.max_prompt_tokens allows "
                f"{limit}; allow more, lower model.policy.max_pixels, or take the row out"
            )


def check_rewards(module: Any, values: Tensor, prompts: list[Prompt]) -> None:
    """Stop if a reward or sampling log-probability of any rank is not finite.

    Args:
        values: what is known of all completions, ``[P, G, columns]``.
        prompts: this rank's prompts.

    Raises:
        NonFiniteError: on every rank, after each rank has saved the ids of its prompts concerned.
    """
    bad = ~values.isfinite().all(-1).all(-1)
    if bad.any():
        own = bad[module.trainer.global_rank :: module.trainer.world_size].tolist()
        _stop(module, "a reward or log-probability", [prompt.id for prompt, b in zip(prompts, own, strict=True) if b])


def check_shapes(module: Any) -> None:
    """Refuse what fixed shapes leave out.

    Args:
        module: the LightningModule, its policy on its device.

    Raises:
        UserError: if a setting needs shapes as they come.
    """
    if not module.policy.static:
        return
    why = "shapes are static here (model.policy.shapes; by default where a device compiles for each shape)"
    if not module.policy.packing:
        raise UserError(f"model.policy.packing is false, but {why}, which only packed groups know")
    if not module.objective.elementwise:
        raise UserError(f"model.objective.loss is {module.objective.loss}, which needs whole completions, but {why}")
    if not module.engine.fixed_shapes:
        name = module.rollout.engine
        raise UserError(f"model.rollout.engine is {name}, whose shapes grow by the token, but {why}; use native")


def gradient_norm(module: Any) -> Tensor | None:
    """Measure the gradient of the policy.

    Args:
        module: the LightningModule, gradients of all ranks averaged.

    Returns:
        Norm of the gradient, a scalar, the same on every rank; None without a gradient.
    """
    gradients = [p.grad for p in module.policy.parameters() if p.grad is not None]
    if not gradients:
        return None
    norm = torch.nn.utils.get_total_norm(gradients)
    # of gradients that FSDP has split over ranks
    whole: Tensor = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
    # on the host, which waits for it in any case to look at it
    return whole.cpu()


def check_gradient(module: Any, norm: Tensor) -> None:
    """Stop if the gradient is not finite; a loss that is not finite on one rank makes it so on all.

    Args:
        norm: norm of the gradient, a scalar, the same on every rank.

    Raises:
        NonFiniteError: on every rank, after each rank has saved the ids of its prompts of the optimizer step.
    """
    if not norm.isfinite():
        index, step = module._next_microbatch, module.trainer.accumulate_grad_batches
        microbatches = module.experience.microbatches[index - step : index]
        _stop(module, "the loss or its gradient", sorted({p.id for m in microbatches for p in m.prompts}))


def _stop(module: Any, what: str, ids: list[str]) -> None:
    folder = Path(module.trainer.log_dir or module.trainer.default_root_dir)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"non_finite_rank{module.trainer.global_rank}.json"
    path.write_text(json.dumps({"what": what, "rollout": module.rollout_index, "ids": ids}, indent=1))
    raise NonFiniteError(
        f"{what} is not finite in rollout {module.rollout_index} (optimizer step {module.trainer.global_step}); "
        f"the run stops before it learns from it; ids of the prompts are in {path}"
    )


@singledispatch
def keeps_masters(strategy: Any) -> bool:
    """Say whether a strategy keeps float32 weights of its own beside half-precision ones; strategies register theirs.

    Args:
        strategy: the trainer's strategy.

    Returns:
        False, unless the strategy has registered another answer.
    """
    return False


def check_rounding(module: Any, optimizer: torch.optim.Optimizer) -> None:
    """Refuse half-precision weights that a step of the optimizer would not move.

    A step of Adam is about the learning rate; one below half the distance to the next number is rounded away.

    Args:
        optimizer: its optimizer.

    Raises:
        UserError: on every rank, if that holds for nine tenths of the weights.
    """
    if keeps_masters(module.trainer.strategy):
        return
    lost, total, rate = 0, 0, 0.0
    for group in optimizer.param_groups:
        # One of Kahan's sum or of another kind than Adam, whose steps say nothing of the learning rate.
        if "betas" not in group:
            continue
        for weight in group["params"]:
            if weight.dtype.itemsize < 4:
                local = weight.detach().to_local() if hasattr(weight, "to_local") else weight.detach()
                # Half the distance is at least a quarter of the relative one.
                lost += int((local.abs().float() * torch.finfo(weight.dtype).eps / 4 > group["lr"]).sum())
                total, rate = total + local.numel(), max(rate, group["lr"])
    lost, total = sum_over_ranks(module, torch.tensor([lost, total], dtype=torch.float64)).tolist()
    if total and lost > 0.9 * total:
        raise UserError(
            f"model.optimizer: steps of {rate:.0e} are rounded away in {lost / total:.0%} of the half-precision "
            "weights; take model.policy.dtype: float32 (with trainer.precision bf16-mixed), or add "
            "--model.optimizer configs/optimizer/kahan.yaml"
        )


def check_checkpoint(module: Any, checkpoint: dict[str, Any]) -> None:
    """Refuse a checkpoint whose weights are not this policy's.

    Args:
        module: the LightningModule with its policy built.
        checkpoint: the checkpoint being read; without weights where the strategy has read and checked them.

    Raises:
        UserError: if names or shapes differ.
    """
    if "g2rpo" not in checkpoint:
        raise UserError("--ckpt_path is not a checkpoint of this trainer (it holds no rollout state)")
    if "state_dict" in checkpoint:
        check_weights(module, {name: tuple(weight.shape) for name, weight in checkpoint["state_dict"].items()})


def check_weights(module: Any, saved: dict[str, tuple[int, ...]]) -> None:
    """Refuse weights that are not this policy's.

    Args:
        module: the LightningModule with its policy built.
        saved: shape of each weight by name; frozen weights and second names of shared ones may be missing.

    Raises:
        UserError: if names or shapes differ.
    """
    # DeepSpeed keeps the shape of a weight that it has split under a name of its own
    own = {
        name: tuple(getattr(weight, "ds_shape", weight.shape))
        for name, weight in module.named_parameters(remove_duplicate=False)
    }
    learned = {name for name, weight in module.named_parameters() if weight.requires_grad}
    differ = sorted(name for name in learned | saved.keys() if own.get(name) != saved.get(name))
    if differ:
        name = differ[0]
        raise UserError(
            f"--ckpt_path is a checkpoint of another model than model.policy.path '{module.policy_path}': "
            f"{len(differ)} weights differ, the first is {name} ({saved.get(name)} saved, {own.get(name)} here)"
        )


def check_learning(module: Any, saved: Iterable[str]) -> None:
    """Refuse to train on from a checkpoint in which more learned, for its optimizer does not fit.

    Args:
        module: the LightningModule with its policy built, while a trainer reads a checkpoint.
        saved: names of the checkpoint's weights, which are those that learned.

    Raises:
        UserError: if the trainer trains and some of them do not learn here.
    """
    learning = {name for name, weight in module.named_parameters(remove_duplicate=False) if weight.requires_grad}
    fixed = sorted(set(saved) - learning)
    if fixed and module.trainer.state.fn == TrainerFn.FITTING:
        raise UserError(
            f"--ckpt_path was written by a run in which {len(fixed)} weights learned that model.policy.freeze keeps "
            f"from learning here, the first is {fixed[0]}; resume with the same freeze, or export the checkpoint and "
            "start from that"
        )
