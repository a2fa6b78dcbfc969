"""The head in tiles of tokens: log-probability, exact entropy and their gradients without ``[M, V]`` logits."""

from collections.abc import Iterator

import torch
from torch import Tensor

MIN_ROWS = 256
"""Fewest tokens in a tile: below it, matrix products lose more than the saved memory is worth."""

TILE_BYTES = {"cpu": 4 << 20, "cuda": 512 << 20}
"""Largest logits of a tile above `MIN_ROWS` tokens, which fit a CPU's caches or give a GPU large products."""

SCRATCH_BYTES = {"cpu": 2 << 20, "cuda": 128 << 20}
"""Size of the part of a tile that softmax and entropy process at a time."""

BLOCK = 8192
"""Vocabulary entries of a half-precision weight gradient that have a copy in float32."""


class Head:
    """One pass over the head: scratch for a tile, and the gradients that tiles accumulate.

    Args:
        hidden: hidden states that predict the targets, ``[M, H]``.
        weight: the head, ``[V, H]``.
        targets: token ids, ``[M]`` long.
        temperature: softmax temperature.
        dtype: dtype of the products' factors, see `factor_dtype`.
        hidden_grad: compute the gradient of ``hidden``.
        weight_grad: compute the gradient of ``weight``.
        device: kind of device that selects the tile size; None for that of ``weight``.
    """

    def __init__(
        self,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        temperature: float,
        dtype: torch.dtype,
        *,
        hidden_grad: bool = False,
        weight_grad: bool = False,
        device: str | None = None,
    ) -> None:
        self.hidden, self.targets, self.temperature = hidden, targets, temperature
        self.weight = weight.to(dtype)
        self.half = dtype.itemsize < 4
        self.dtype = torch.float32 if self.half else dtype
        device, row_bytes = device or weight.device.type, len(weight) * self.dtype.itemsize
        rows = min(max(MIN_ROWS, TILE_BYTES.get(device, 0) // row_bytes), max(1, len(targets)))
        # One part even without tokens, so that every caller sees the same shapes and names.
        self.parts = [slice(i, i + rows) for i in range(0, max(1, len(targets)), rows)]
        self._tile = hidden.new_empty(rows, len(weight), dtype=self.dtype)
        scratch_rows = min(rows, max(1, SCRATCH_BYTES.get(device, 0) // row_bytes))
        self._scratch = torch.empty_like(self._tile[:scratch_rows])
        self.hidden_grad = torch.empty_like(hidden, memory_format=torch.contiguous_format) if hidden_grad else None
        self.weight_grad = hidden.new_zeros(weight.shape, dtype=self.dtype) if weight_grad else None

    def stats(self, part: slice) -> tuple[Tensor, Tensor]:
        """Compute one tile: log-probabilities and entropies, nats, ``[m]`` each."""
        targets = self.targets[part, None]
        tile = self._tile[: len(targets)]
        self._product(self.hidden[part].to(self.weight.dtype), self.weight.T, tile)
        if self.temperature != 1:
            tile.div_(self.temperature)
        found = [self._softmax(*rows) for rows in self._blocks(tile, targets)]
        logprobs, self._entropy = (torch.cat(values) for values in zip(*found, strict=True))
        return logprobs, self._entropy.clone()

    def _blocks(self, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """Split tensors into rows that fit the scratch."""
        return zip(*(torch.split(tensor, len(self._scratch)) for tensor in tensors), strict=True)

    def _softmax(self, rows: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Turn logits into probabilities in place; return log-probabilities of the targets and entropies."""
        rows.sub_(rows.amax(-1, keepdim=True))
        exps = torch.exp(rows, out=self._scratch[: len(rows)])
        total = exps.sum(-1, keepdim=True)
        log_total = total.log()
        logprobs = rows.gather(-1, targets) - log_total
        # The mean of the logits minus their maximum: all terms have one sign, so no digits cancel.
        entropy = log_total - rows.mul_(exps).sum(-1, keepdim=True) / total
        torch.div(exps, total, out=rows)
        return logprobs[:, 0], entropy[:, 0]

    def backward(self, part: slice, logprob_grad: Tensor | None, entropy_grad: Tensor | None) -> None:
        """Add the gradients of the last computed tile.

        Args:
            logprob_grad: d loss / d log-probability of each token, ``[m]``; None for 0.
            entropy_grad: d loss / d entropy of each token, ``[m]``; None for 0, which saves work.
        """
        # With p the probabilities, h the entropy, z the logits and t the target:
        # d logprob / dz = [t] - p and d entropy / dz = -p (log p + h).
        targets = self.targets[part, None]
        grad = self._tile[: len(targets)]
        direct = grad.new_zeros(len(grad)) if logprob_grad is None else logprob_grad / self.temperature
        if entropy_grad is None:
            grad.mul_(-direct[:, None])
        else:
            slope = entropy_grad / self.temperature
            for rows, *factors in self._blocks(grad, slope[:, None], (direct + slope * self._entropy)[:, None]):
                self._entropy_rows(rows, *factors)
        grad.scatter_add_(-1, targets, direct[:, None])
        grad = grad.to(self.weight.dtype)
        if self.hidden_grad is not None:
            share = self._tile.new_empty(len(grad), self.weight.shape[1])
            self.hidden_grad[part] = self._product(grad, self.weight, share)
        if self.weight_grad is not None:
            self._add_product(grad.T, self.hidden[part].to(self.weight.dtype), self.weight_grad)

    def _entropy_rows(self, rows: Tensor, slope: Tensor, offset: Tensor) -> None:
        """Turn probabilities ``p`` into ``-p (slope log p + offset)`` in place."""
        # Where p is 0, any finite logarithm will do.
        logs = torch.clamp(rows, min=torch.finfo(rows.dtype).tiny, out=self._scratch[: len(rows)]).log_()
        rows.mul_(logs.mul_(slope).add_(offset).neg_())

    def _product(self, a: Tensor, b: Tensor, out: Tensor) -> Tensor:
        return torch.mm(a, b, out_dtype=torch.float32, out=out) if self.half else torch.mm(a, b, out=out)

    def _add_product(self, a: Tensor, b: Tensor, out: Tensor) -> None:
        # Sums over tiles stay in float32: rounding each tile's share to half precision lowers the entropy in training.
        if not self.half:
            out.addmm_(a, b)
            return
        for start in range(0, len(a), BLOCK):
            out[start : start + BLOCK] += torch.mm(a[start : start + BLOCK], b, out_dtype=torch.float32)


def factor_dtype(hidden: Tensor, weight: Tensor, device: str | None = None) -> torch.dtype:
    """Choose the dtype of the factors of the head's products; sums and logits are always float32 or wider.

    Args:
        hidden: hidden states ``[M, H]``.
        weight: the head, ``[V, H]``.
        device: kind of device that computes; None for that of ``hidden``.

    Returns:
        Half precision on CUDA if the inputs or autocast use it; float32 or wider elsewhere, because no product there
        takes half precision and returns float32.
    """
    dtype, here = torch.promote_types(hidden.dtype, weight.dtype), hidden.device.type
    if (device or here) != "cuda":
        return torch.promote_types(dtype, torch.float32)
    if torch.is_autocast_enabled(here) and dtype != torch.float64:
        return torch.get_autocast_dtype(here)
    return dtype
