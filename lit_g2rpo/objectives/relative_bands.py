"""Length bands relative to a length that is unknown in the config: the starting mean, or that of a reference answer."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from lit_g2rpo.errors import UserError
from lit_g2rpo.objectives.shaping import LengthBand, length_reward

Unit = Literal["start", "reference"]
UNITS: dict[str, Unit] = {"x": "start", "ref": "reference"}
NUMBER = r"(\d+(?:\.\d+)?)"
THRESHOLD = re.compile(rf"(?:{NUMBER}\+)?{NUMBER}(x|ref)")


@dataclass(slots=True, frozen=True)
class RelativeBand:
    """Four thresholds, each ``tokens + times * length`` for a length that becomes known later.

    Args:
        unit: the length: the task's mean completion length at the ``start`` of the run, or that of the ``reference``
            answer of each prompt.
        tokens: fixed part of minimum, low, high and maximum, tokens.
        times: multiple of the length in each of them.

    Raises:
        UserError: if a fixed part is negative or not finite, or a threshold is below the previous one for every
            length.
    """

    unit: Unit
    tokens: tuple[float, ...]
    times: tuple[float, ...]

    def __post_init__(self) -> None:
        """Check the thresholds."""
        if not all(0 <= tokens < math.inf for tokens in self.tokens):
            raise UserError("tokens of a threshold must be 0 or more, and finite")
        parts = list(zip(self.tokens, self.times, strict=True))
        if any(left != right and left[0] >= right[0] and left[1] >= right[1] for left, right in pairwise(parts)):
            raise UserError("thresholds must be in ascending order: minimum, low, high, maximum")

    def at(self, length: float) -> LengthBand:
        """Compute the band for a length in tokens; a threshold above the next one is lowered to it."""
        values = [tokens + times * length for tokens, times in zip(self.tokens, self.times, strict=True)]
        return LengthBand(*(min(values[place:]) for place in range(len(values))))


def length_band(values: Sequence[float | str]) -> LengthBand | RelativeBand:
    """Read four thresholds from a config.

    Args:
        values: minimum, low, high and maximum: a number of tokens; ``1.2x``, times the task's mean completion length at
            the start; ``1.5ref``, times the length of the reference answer; or ``20+1.5ref``, the same after 20 tokens.

    Returns:
        A band in tokens if every threshold is a number, else a relative one.

    Raises:
        UserError: if there are not four, one cannot be read, they descend, or they mix both units.
    """
    if isinstance(values, str) or len(values) != 4:
        raise UserError("give 4 thresholds, ascending")
    tokens, times, units = [], [], set()
    for value in values:
        try:
            tokens.append(float(value))
            times.append(0.0)
        except (ValueError, TypeError):
            found = THRESHOLD.fullmatch(str(value).replace(" ", ""))
            if found is None:
                raise UserError(
                    f"{value!r} is no threshold; give tokens (750), a multiple of the starting mean (1.2x), or of the "
                    "reference answer (1.5ref, 20+1.5ref)"
                ) from None
            tokens.append(float(found[1] or 0))
            times.append(float(found[2]))
            units.add(UNITS[found[3]])
    if not units:
        return LengthBand(*tokens)
    if len(units) > 1:
        raise UserError("a band is relative to the starting mean (x) or to the reference answer (ref), not to both")
    return RelativeBand(units.pop(), tuple(tokens), tuple(times))


def reference_length_reward(lengths: Tensor, references: Tensor, band: RelativeBand) -> Tensor:
    """Reward completions whose length suits their reference answer.

    Args:
        lengths: length of each completion, tokens, ``[N]``, integer or floating.
        references: length of each completion's reference answer, tokens, ``[N]``.

    Returns:
        Reward in [0, 1], ``[N]`` floating.
    """
    reward = torch.zeros_like(lengths, dtype=length_reward(lengths[:0], band.at(0)).dtype)
    for reference in sorted(set(references.tolist())):
        rows = references == reference
        reward[rows] = length_reward(lengths[rows], band.at(reference))
    return reward
