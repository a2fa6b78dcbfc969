"""Statistics of values inside sets (groups, tasks): float64 on the host, then back to the input's dtype and device."""

import torch
from torch import Tensor

EPSILON = 1e-6


def tie_classes(values: Tensor, set_ids: Tensor, tie_tolerance: float) -> tuple[Tensor, Tensor]:
    """Sort values inside each set and mark where a tie class begins.

    Args:
        set_ids: the set each value is ranked in, ``[N]`` long.
        tie_tolerance: neighbors no farther apart than this are tied.

    Returns:
        The order ``[N]`` long, ascending by set and by value within each, and in that order True where a value does
        not tie with the one before it in its set, ``[N]`` bool.
    """
    order = values.argsort(stable=True)
    order = order[set_ids[order].argsort(stable=True)]
    values, set_ids = values[order], set_ids[order]
    begins = torch.ones_like(order, dtype=torch.bool)
    begins[1:] = (set_ids[1:] != set_ids[:-1]) | (values[1:] - values[:-1] > tie_tolerance)
    return order, begins


def standardize(values: Tensor, set_ids: Tensor, *, unbiased: bool = True) -> Tensor:
    """Subtract its set's mean from each value and divide by the set's standard deviation plus 1e-6; 0 in a set of one.

    Args:
        values: finite values, ``[N]`` float64.
        set_ids: the set of each value, from 0 without gaps, ``[N]`` long.
        unbiased: divide the variance of a set of n by n - 1, else by n.
    """
    size = set_ids.bincount()[set_ids]
    difference = values - mean_within(values, set_ids)
    # A set of one has difference 0, whatever the divisor.
    variance = mean_within(difference.square(), set_ids)
    if unbiased:
        variance = variance * size / (size - 1).clamp(min=1)
    return difference / (variance.sqrt() + EPSILON)


def mean_within(values: Tensor, set_ids: Tensor) -> Tensor:
    """Return the mean of each value's set, ``[N]``; arguments as in `standardize`."""
    size = set_ids.bincount()
    return (torch.zeros(len(size), dtype=values.dtype).index_add(0, set_ids, values) / size)[set_ids]


def select(values: Tensor, valid: Tensor | None, name: str = "rewards") -> tuple[Tensor, Tensor]:
    """Select the valid rows as float64 on the host, and their indices.

    Args:
        values: one value per completion, ``[N]``.
        valid: False for completions of dropped groups, ``[N]`` bool; None if all count.
        name: name of the values, for the error.

    Raises:
        ValueError: if a valid value is NaN or infinite, with its index, or the shapes differ.
    """
    if values.ndim != 1 or (valid is not None and valid.shape != values.shape):
        raise ValueError(f"{name} {list(values.shape)} must be one-dimensional, and valid of the same shape")
    rows = torch.arange(len(values)) if valid is None else valid.cpu().nonzero().flatten()
    selected = values.detach().cpu().double()[rows]
    bad = rows[~selected.isfinite()]
    if len(bad):
        raise ValueError(f"{name} not finite at {len(bad)} indices: {bad[:20].tolist()}")
    return selected, rows


def index(ids: Tensor, rows: Tensor, values: Tensor) -> Tensor:
    """Renumber the ids of the valid rows from 0 without gaps.

    Args:
        ids: an id per completion, ``[N]`` long.
        rows: indices of the valid rows.
        values: the values of the ids, ``[N]``, for their shape.
    """
    if ids.shape != values.shape:
        raise ValueError(f"ids {list(ids.shape)} do not match values {list(values.shape)}")
    inverse: Tensor = torch.unique(ids.cpu()[rows], return_inverse=True)[1]
    return inverse


def restore(scores: Tensor, rows: Tensor, values: Tensor) -> Tensor:
    """Put scores back at their valid rows, 0 elsewhere, ``[N]``, with the values' dtype and device."""
    full = torch.zeros(len(values), dtype=torch.float64).index_copy(0, rows, scores)
    return full.to(values.device, values.dtype if values.is_floating_point() else torch.get_default_dtype())
