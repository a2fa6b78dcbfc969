"""Length and entropy shaping per task."""

import math
from dataclasses import astuple, dataclass

import torch
from torch import Tensor

from lit_g2rpo.errors import UserError


@dataclass(slots=True, frozen=True)
class LengthBand:
    """Trapezoid over a task's completion length: 0 outside [minimum, maximum], 1 on [low, high].

    Equal thresholds make an edge vertical.

    Args:
        minimum: the reward starts to rise from 0 here, tokens.
        low: the reward reaches 1 here, tokens.
        high: the reward starts to fall from 1 here, tokens.
        maximum: the reward is back at 0 here, tokens.

    Raises:
        UserError: if a threshold is negative or not finite, or they are not in ascending order.
    """

    minimum: float
    low: float
    high: float
    maximum: float

    def __post_init__(self) -> None:
        """Check the thresholds."""
        values = astuple(self)
        if not all(math.isfinite(value) and value >= 0 for value in values) or list(values) != sorted(values):
            raise UserError(f"{self}: needs finite 0 <= minimum <= low <= high <= maximum, in tokens")


@dataclass(slots=True, frozen=True)
class EntropyBand:
    """Healthy zone of a task's mean token entropy.

    Args:
        low: below this the policy is about to collapse, nats.
        high: above this the policy becomes too random, nats.

    Raises:
        UserError: if a bound is negative or not finite, or ``low`` is above ``high``.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        """Check the bounds."""
        if not (math.isfinite(self.high) and 0 <= self.low <= self.high):
            raise UserError(f"{self}: needs finite 0 <= low <= high, in nats")


def length_reward(lengths: Tensor, band: LengthBand) -> Tensor:
    """Reward completions whose length suits their task.

    Args:
        lengths: length of each completion, tokens, ``[N]``, integer or floating.

    Returns:
        Reward in [0, 1], ``[N]`` floating.

    Source: arXiv 2604.08539, eq. 9.
    """
    lengths = lengths if lengths.is_floating_point() else lengths.to(torch.get_default_dtype())
    rise = _edge(lengths - band.minimum, band.low - band.minimum)
    fall = _edge(band.maximum - lengths, band.maximum - band.high)
    return torch.minimum(rise, fall)


def _edge(inside: Tensor, width: float) -> Tensor:
    """Rise from 0 to 1 over a width, given how far inside the outer threshold a value is; a step if the width is 0."""
    return (inside / width).clamp(0, 1) if width > 0 else (inside >= 0).to(inside.dtype)


def overlong_penalty(lengths: Tensor, limit: int, share: float) -> Tensor:
    """Penalize completions that come close to the length limit, before it cuts them off.

    Args:
        lengths: length of each completion, tokens, ``[N]``, integer or floating.
        limit: longest completion, tokens.
        share: the penalty grows linearly over this last share of the limit.

    Returns:
        Penalty from 0 to 1 at the limit, ``[N]`` floating.

    Source: arXiv 2503.14476, eq. 13, with the opposite sign; there the share is 4,096 of 20,480 tokens.
    """
    return (1 - (limit - lengths) / (share * limit)).clamp(0, 1)


def entropy_band_loss(entropy: Tensor, low: float, high: float) -> Tensor:
    """Penalize a mean token entropy, of any shape, by its distance from the band, all in nats.

    Source: arXiv 2604.08539, eq. 10.
    """
    return (entropy - high).clamp(min=0) + (low - entropy).clamp(min=0)


def entropy_direction(entropy: float, band: EntropyBand) -> float:
    """Return the slope of `entropy_band_loss` at a task's mean token entropy over the rollout, nats.

    Because it is fixed once per rollout and task, the penalty is linear in the entropy of each token, so micro-batches
    and ranks sum exactly, however the task's tokens are split.

    Returns:
        1 above the band (the loss lowers entropy), -1 below it (the loss raises entropy), 0 inside.
    """
    return float(entropy > band.high) - float(entropy < band.low)
