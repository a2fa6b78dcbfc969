"""Checks that stop a run before it learns from a number that is not finite, or in shapes that do not fit."""

import inspect
import json
import math
from pathlib import Path
from typing import NoReturn

import torch
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, Strategy
from torch import Tensor, nn

from lit_g2rpo.errors import NonFiniteError, UserError
from lit_g2rpo.experience import Microbatch, Prompt
from lit_g2rpo.files import write_text
from lit_g2rpo.hardware.collectives import Ranks
from lit_g2rpo.hardware.hooks import keeps_masters
from lit_g2rpo.objectives.objective import Objective
from lit_g2rpo.policy.config import PolicyConfig
from lit_g2rpo.rewards.config import RewardConfig
from lit_g2rpo.rollout.config import EvaluationConfig, RolloutConfig, UpdateConfig
from lit_g2rpo.rollout.engine import RolloutEngine
from lit_g2rpo.training.run import Run

HOTTEST = 10.0
"""Temperature above which all tokens are about equally likely."""


def check_estimator(objective: Objective) -> None:
    """Refuse an objective whose advantages no function computes.

    Raises:
        UserError: if it has no estimator, or one that cannot be called as `Estimator` is.
    """
    name = type(objective).__name__
    if not hasattr(objective, "estimator"):
        raise UserError(f"model.objective {name} has neither an estimator nor advantages of its own; give one of them")
    signature = inspect.signature(objective.estimator)
    try:
        signature.bind("rewards", "group_ids", "task_ids", valid="valid")
    except TypeError:
        raise UserError(
            f"model.objective {name} has an estimator{signature}; give one of the form staticmethod(function), with "
            "function(rewards, group_ids, task_ids, *, valid=None)"
        ) from None


def check_settings(objective: Objective, rollout: RolloutConfig, engine: RolloutEngine) -> None:
    """Refuse settings that contradict each other.

    Raises:
        UserError: if the objective cannot learn from what the engine returns.
    """
    if type(objective).advantages is Objective.advantages:
        check_estimator(objective)
    check_sampling("model.rollout", rollout.temperature, rollout.top_p, rollout.top_k)
    if engine.samples and rollout.temperature == 0:
        raise UserError(
            "model.rollout.temperature is 0, which samples one and the same completion for a prompt; its groups teach "
            "nothing: give a temperature above 0, such as 1.0"
        )
    if rollout.temperature > HOTTEST:
        raise UserError(
            f"model.rollout.temperature is {rollout.temperature:g}, at which completions are noise; give "
            f"{HOTTEST:g} at most, usually 0.6 to 1.2"
        )
    if rollout.seed < 0:
        raise UserError(f"model.rollout.seed is {rollout.seed}; it must be 0 or more")
    for key in ("max_rows", "slots", "prefill_mib"):
        if (value := getattr(rollout, key)) is not None and not 0 < value < math.inf:
            raise UserError(f"model.rollout.{key} is {value}; it must be above 0")
    if objective.needs_groups and rollout.group_size < 2:
        raise UserError(
            f"model.rollout.group_size is {rollout.group_size}; advantages compare completions of one prompt, "
            "so it must be at least 2"
        )
    if objective.needs_groups != engine.samples:
        raise UserError(
            f"model.rollout.engine is {rollout.engine}, but model.objective {type(objective).__name__} "
            + (
                "compares completions of one prompt, and demonstrations are all the same; give native, or the "
                "objective Supervised"
                if objective.needs_groups
                else "imitates what it is given, which must not be its own samples; give demonstrations"
            )
        )
    if objective.importance_cap is not None and rollout.old_logprobs != "recompute":
        raise UserError(
            "model.objective.importance_cap weighs the trainer's against the engine's probabilities; it needs "
            "model.rollout.old_logprobs: recompute"
        )


def check_parts(
    policy: object,
    objective: object,
    optimizer: object,
    rollout: object,
    update: object,
    evaluation: object,
    reward: object,
) -> None:
    """Refuse module parts of the wrong type, which only calls from Python can pass.

    Raises:
        UserError: if one is.
    """
    kinds: dict[str, tuple[object, type]] = {
        "policy": (policy, PolicyConfig),
        "objective": (objective, Objective),
        "rollout": (rollout, RolloutConfig),
        "update": (update, UpdateConfig),
        "evaluation": (evaluation, EvaluationConfig),
        "reward": (reward, RewardConfig),
    }
    for name, (value, kind) in kinds.items():
        if isinstance(value, kind):
            continue
        if isinstance(value, type) and issubclass(value, kind):
            raise UserError(f"model.{name} is the class {value.__name__}; give an object of it: {value.__name__}(...)")
        raise UserError(f"model.{name} is {value!r:.80}; give an object of lit_g2rpo.{kind.__name__}")
    if not callable(optimizer):
        raise UserError(
            f"model.optimizer is an object of {type(optimizer).__name__}; give a function of the weights, which are "
            "loaded later: partial(torch.optim.AdamW, lr=1e-6)"
        )


def check_strategy(strategy: Strategy) -> None:
    """Refuse Lightning's own strategies that would sample from weights that are not there, or scale gradients twice.

    Raises:
        UserError: if the strategy is one of them.
    """
    # subclasses are allowed
    for kind, own in ((DeepSpeedStrategy, "G2RPODeepSpeedStrategy"), (FSDPStrategy, "FSDP2Strategy")):
        if type(strategy) is kind:
            raise UserError(
                f"trainer.strategy is Lightning's own {kind.__name__}, under which a policy cannot be sampled from or "
                f"trained right; give lit_g2rpo.strategies.{own}()"
            )


def check_sampling(where: str, temperature: float, top_p: float, top_k: int) -> None:
    """Refuse sampling settings that are out of range.

    Args:
        where: the config key that holds them.

    Raises:
        UserError: if one is.
    """
    if not 0 <= temperature < math.inf:
        raise UserError(f"{where}.temperature is {temperature}; it must be 0 or more")
    if not 0 < top_p <= 1:
        raise UserError(f"{where}.top_p is {top_p}; it must be above 0 and at most 1, which keeps all tokens")
    if top_k < 0:
        raise UserError(f"{where}.top_k is {top_k}; it must be 0, which keeps all tokens, or more")


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


LARGEST_STEP = 0.01
"""Learning rate above which one Adam step, which moves each weight by about this much, destroys the policy."""


def check_rate(optimizer: torch.optim.Optimizer) -> None:
    """Refuse a learning rate that trains nothing or destroys the policy.

    Args:
        optimizer: the optimizer before any step, its schedule not yet made.

    Raises:
        UserError: if it is 0 or not finite, or, of an optimizer called after Adam, above `LARGEST_STEP`.
    """
    for group in optimizer.param_groups:
        rate = float(group["lr"])
        if not 0 < rate < math.inf:
            why = "which trains nothing" if rate == 0 else "which is no step"
            raise UserError(f"model.optimizer.lr is {rate:g}, {why}; give a number above 0, such as 1e-6")
        if type(optimizer).__name__.startswith("Adam") and rate > LARGEST_STEP:
            raise UserError(
                f"model.optimizer.lr is {rate:g}; Adam moves every weight by about that much in a step, which leaves "
                f"nothing of the policy: give {LARGEST_STEP:g} at most, usually 1e-6, with adapters 1e-5"
            )


def check_rounding(optimizer: torch.optim.Optimizer, strategy: Strategy, ranks: Ranks) -> None:
    """Refuse half-precision weights that an optimizer step would not move.

    Adam's step is about the learning rate; a step below half the distance to the next number is rounded away.

    Args:
        optimizer: the run's optimizer.

    Raises:
        UserError: on every rank, if that holds for nine tenths of the weights.
    """
    if keeps_masters(strategy):
        return
    lost, total, rate = 0, 0, 0.0
    for group in optimizer.param_groups:
        # Kahan summation, or not Adam: the size of the steps does not follow from the learning rate.
        if "betas" not in group:
            continue
        for weight in group["params"]:
            if weight.dtype.itemsize < 4:
                local = weight.detach().to_local() if hasattr(weight, "to_local") else weight.detach()
                # Half the distance is at least a quarter of eps times the weight.
                lost += int((local.abs().float() * torch.finfo(weight.dtype).eps / 4 > group["lr"]).sum())
                total, rate = total + local.numel(), max(rate, group["lr"])
    lost, total = ranks.sum(torch.tensor([lost, total], dtype=torch.float64)).tolist()
    if total and lost > 0.9 * total:
        raise UserError(
            f"model.optimizer: steps of {rate:.0e} are rounded away in {lost / total:.0%} of the half-precision "
            "weights; take model.policy.dtype: float32 (with trainer.precision bf16-mixed), or add "
            "--model.optimizer configs/optimizer/kahan.yaml"
        )
