"""Checks that stop a run whose numbers are not finite, or whose shapes do not fit the policy."""

import json
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor, nn

from lit_g2rpo.errors import NonFiniteError, RolloutStopError, UserError
from lit_g2rpo.experience import Microbatch, Prompt
from lit_g2rpo.files import write_text
from lit_g2rpo.hardware.collectives import Ranks
from lit_g2rpo.training.run import Run


def stop_at_scores(run: Run, values: Tensor, prompts: list[Prompt]) -> NoReturn:
    """Stop because a reward or sampling log-probability is not finite on some rank.

    Args:
        values: the columns of all completions, ``[P, G, columns]``.
        prompts: this rank's prompts.

    Raises:
        NonFiniteError: on every rank, after each rank has saved the ids of its affected prompts.
    """
    bad = ~values.isfinite().all(-1).all(-1)
    own = bad[run.ranks.rank :: run.ranks.count].tolist()
    _stop(run, "a reward or log-probability", [prompt.id for prompt, b in zip(prompts, own, strict=True) if b])


def stop_together(ranks: Ranks, error: RolloutStopError | None) -> None:
    """Stop on every rank if one could not sample its part of a rollout.

    Args:
        error: why this rank could not; None if it could.

    Raises:
        RolloutStopError: on every rank, with the reason of the first that has one.
    """
    if reason := ranks.first_message(str(error or "")):
        raise RolloutStopError(reason) from error


def check_attention(packed_attention: str | None, device: str) -> None:
    """Refuse attention that the device does not support.

    Args:
        packed_attention: as configured.
        device: type of the device.

    Raises:
        UserError: if flex attention is asked for without CUDA.
    """
    if packed_attention == "flex" and device != "cuda":
        raise UserError(
            f"model.policy.packed_attention is flex, which needs CUDA, and this is {device}; leave it out, which takes "
            "merged on the CPU and two_part elsewhere"
        )


def check_shapes(run: Run) -> None:
    """Refuse settings that fixed shapes do not support.

    Raises:
        UserError: if a setting needs exact shapes.
    """
    if not run.policy.static:
        return
    why = "shapes are static here (model.policy.shapes; by default where a device compiles for each shape)"
    if not run.policy.packing:
        raise UserError(f"model.policy.packing is false, but {why}, which only packed groups know")
    if not run.objective.elementwise:
        raise UserError(f"model.objective.loss is {run.objective.loss}, which needs whole completions, but {why}")
    if not run.engine.fixed_shapes:
        name = run.rollout.engine
        raise UserError(f"model.rollout.engine is {name}, whose shapes grow by the token, but {why}; use native")


def gradient_norm(policy: nn.Module) -> Tensor | None:
    """Measure the gradient of the policy.

    Returns:
        Norm of the gradient, a scalar, the same on every rank; None without a gradient.
    """
    gradients = [p.grad for p in policy.parameters() if p.grad is not None]
    if not gradients:
        return None
    norm = torch.nn.utils.get_total_norm(gradients)
    # if FSDP has split the gradients over ranks
    whole: Tensor = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
    # to the host, which has to wait for it anyway to check it
    return whole.cpu()


def check_gradient(run: Run, norm: Tensor, microbatches: list[Microbatch]) -> None:
    """Stop if the gradient is not finite; a loss that is not finite on one rank makes it so on all.

    Args:
        norm: norm of the gradient, a scalar, the same on every rank.
        microbatches: micro-batches of the optimizer step.

    Raises:
        NonFiniteError: on every rank, after each rank has saved the ids of its prompts of the optimizer step.
    """
    if not norm.isfinite():
        _stop(run, "the loss or its gradient", sorted({p.id for m in microbatches for p in m.prompts}))


def _stop(run: Run, what: str, ids: list[str]) -> NoReturn:
    folder = Path(run.trainer.log_dir or run.trainer.default_root_dir)
    path = folder / f"non_finite_rank{run.ranks.rank}.json"
    write_text(path, json.dumps({"what": what, "rollout": run.rollout_index, "ids": ids}, indent=1))
    raise NonFiniteError(
        f"{what} is not finite in rollout {run.rollout_index} (optimizer step {run.trainer.global_step}); "
        f"the run stops before it learns from it; ids of the prompts are in {path}"
    )
