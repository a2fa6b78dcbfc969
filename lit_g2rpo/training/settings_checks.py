"""Checks of settings and parts, before the policy is trained."""

import inspect
import math

import torch
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, Strategy

from lit_g2rpo.errors import UserError
from lit_g2rpo.hardware.collectives import Ranks
from lit_g2rpo.hardware.hooks import keeps_masters
from lit_g2rpo.objectives.objective import Objective
from lit_g2rpo.policy.config import PolicyConfig
from lit_g2rpo.rewards.config import RewardConfig
from lit_g2rpo.rollout.config import EvaluationConfig, RolloutConfig, UpdateConfig
from lit_g2rpo.rollout.engine import RolloutEngine

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
    if rollout.gap_checks < 0:
        raise UserError(f"model.rollout.gap_checks is {rollout.gap_checks}; it must be 0, which checks none, or more")
    for key in ("mean_gap", "max_gap"):
        if (value := getattr(rollout, key)) is not None and not value > 0:
            raise UserError(f"model.rollout.{key} is {value}; it must be above 0 nats")
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
    _check_lag(objective, rollout, engine)


def _check_lag(objective: Objective, rollout: RolloutConfig, engine: RolloutEngine) -> None:
    """Refuse to sample ahead with an engine that cannot, or without a correction for older weights."""
    if rollout.lag not in (0, 1):
        raise UserError(
            f"model.rollout.lag is {rollout.lag}; give 1 to sample a rollout while the policy learns from the one "
            "before, or 0"
        )
    if rollout.lag and not engine.separate:
        raise UserError(
            f"model.rollout.lag is 1, but model.rollout.engine {rollout.engine} samples with the weights that learn, "
            "so it cannot sample meanwhile; give lag 0, or an engine with its own copy of the weights, such as "
            "vllm_server"
        )
    if rollout.lag and rollout.old_logprobs == "recompute" and objective.importance_cap is None:
        raise UserError(
            "model.rollout.lag is 1 with old_logprobs: recompute, which treats completions of older weights as those "
            "of the newest; set model.objective.importance_cap, such as 2, or model.rollout.old_logprobs: rollout"
        )


def check_max_lag(rollout: RolloutConfig, steps: int) -> None:
    """Refuse a rollout that is learned from later than allowed.

    Args:
        steps: optimizer steps per rollout.

    Raises:
        UserError: if ``max_lag`` is out of range, or below the steps between sampling and learning.
    """
    if rollout.max_lag is None:
        return
    if rollout.max_lag < 0:
        raise UserError(f"model.rollout.max_lag is {rollout.max_lag}; give a number of optimizer steps, or null")
    if (behind := rollout.lag * steps) > rollout.max_lag:
        raise UserError(
            f"with model.rollout.lag {rollout.lag}, the policy makes {behind} optimizer steps between sampling a "
            f"rollout and learning from it, more than model.rollout.max_lag {rollout.max_lag}; lower "
            "model.update.epochs or microbatches, or raise max_lag"
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
