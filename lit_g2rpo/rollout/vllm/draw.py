"""The trainer's draw inside vLLM: which tokens it draws, and how their statistics travel back."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lit_g2rpo.rollout.engine import Sampling
from lit_g2rpo.rollout.sampling import draw_with_stats, uniforms

KEY = "lit_g2rpo"
"""The entry of a request's extra arguments that holds the draw's."""

PROCESSOR = "lit_g2rpo.rollout.vllm.processor:CounterDraw"
"""Where vLLM finds the draw."""

LOGPROBS_MODE = "processed_logits"
"""What vLLM returns as log-probabilities: the logits that the draw leaves."""

TOP = 3
"""How many of them it is asked for."""

DRAWN = 200.0
"""Logit of the drawn token: more than an entropy can be, and softmax gives it probability 1 in float32."""

BROKEN = -9999.0
"""Stands for a statistic that is not finite, which JSON cannot carry."""


def request_arguments(sampling: Sampling, prompt_id: str, completion: int, forbidden: list[int]) -> dict[str, Any]:
    """Return the extra arguments of a request whose tokens are drawn from the run's counters, as plain JSON.

    Args:
        completion: index of the completion in its group; a request's seed, if it has one, is added to it, so that one
            request with seed 0 and ``n`` choices is a group.
        forbidden: ids that are never drawn.
    """
    return {
        KEY: {
            "prompt": prompt_id,
            "completion": completion,
            "seed": sampling.seed,
            "rollout": sampling.rollout,
            "wave": sampling.wave,
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            "forbidden": forbidden,
        }
    }


def read(values: Tensor) -> tuple[Tensor, Tensor]:
    """Read what the draw wrote into the logits of each token.

    Args:
        values: the largest logits of each token, in any order, ``[T, K]`` with ``K`` at least 3; the drawn token's may
            be there twice.

    Returns:
        Log-probabilities and exact entropies, nats, ``[T]`` each; NaN if they were not finite.

    Raises:
        RuntimeError: if something else wrote them.
    """
    ordered = values.sort(dim=-1, descending=True).values
    if not (ordered[:, 0] == DRAWN).all():
        raise RuntimeError(f"vLLM did not draw with {PROCESSOR}, or not with logprobs_mode {LOGPROBS_MODE}")
    entropy, logprobs = ordered[:, -2], ordered[:, -1]
    return logprobs.where(logprobs > BROKEN, torch.nan), entropy.where(entropy > BROKEN, torch.nan)


@dataclass(slots=True, eq=False)
class _Request:
    """A request in vLLM's batch: its settings, its row in the table of uniforms, and its tokens so far."""

    settings: tuple[float, float, int, tuple[int, ...]]
    row: int
    tokens: Sequence[int]


@dataclass(slots=True)
class _Alike:
    """Requests of one batch with equal settings: their places in the batch, and what is drawn with.

    Args:
        places: ``[n]`` long; None if it is the whole batch in order.
        rows: their rows in the table of uniforms, ``[n]`` long.
        tokens: the tokens of each so far.
    """

    places: Tensor | None
    rows: Tensor
    tokens: list[Sequence[int]]
    sampling: Sampling
    forbidden: Tensor


class BatchedDraw:
    """Draw for all requests of a batch at once; what vLLM's V1 interface for logits processors calls.

    A draw depends on nothing but the request's counters and the number of its tokens, so it is the same if vLLM
    computes a token twice, in another batch or after it has preempted the request.

    Args:
        device: where the logits are.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._requests: dict[int, _Request] = {}
        self._uniform = torch.zeros(0, 0, dtype=torch.float64, device=device)
        self._free: list[int] = []
        self._groups: list[_Alike] | None = []

    def is_argmax_invariant(self) -> bool:
        """Return False: it decides which token is the most likely."""
        return False

    def update_state(self, update: Any) -> None:
        """Follow the requests that left, entered and moved within vLLM's batch.

        Args:
            update: vLLM's ``BatchUpdate``; None if the batch is as it was.
        """
        if update is None:
            return
        self._groups = None
        for place in update.removed:
            self._forget(place)
        for place, params, _, tokens in update.added:
            self._forget(place)
            given = (params.extra_args or {}).get(KEY)
            if given is not None:
                self._requests[place] = self._enter(given, params.seed or 0, tokens)
        for a, b, direction in update.moved:
            first, second = self._requests.pop(a, None), self._requests.pop(b, None)
            if first is not None:
                self._requests[b] = first
            if second is not None:
                if direction.name == "SWAP":
                    self._requests[a] = second
                else:
                    self._free.append(second.row)

    def apply(self, logits: Tensor) -> Tensor:
        """Draw a token for each row of the batch, and leave its statistics in place of the logits.

        Args:
            logits: ``[N, V]`` float, changed in place.

        Returns:
            The same tensor.
        """
        if self._groups is None:
            self._groups = self._grouped(len(logits))
        for alike in self._groups:
            own = logits if alike.places is None else logits[alike.places]
            index = torch.tensor(list(map(len, alike.tokens)), device=self._device)
            drawn = draw_with_stats(own, self._uniform[alike.rows, index], alike.sampling, alike.forbidden)
            left = _written(*drawn, own.shape[-1])
            if alike.places is None:
                logits.copy_(left)
            else:
                logits[alike.places] = left
        return logits

    def _enter(self, given: dict[str, Any], choice: int, tokens: Sequence[int]) -> _Request:
        sampling = Sampling(
            given["max_tokens"],
            given["temperature"],
            given["top_p"],
            given["top_k"],
            given["seed"],
            given["rollout"],
            given["wave"],
        )
        numbers = uniforms(sampling, given["prompt"], given["completion"] + choice)
        row = self._room(len(numbers))
        self._uniform[row, : len(numbers)] = torch.from_numpy(numbers).to(self._device)
        settings = sampling.temperature, sampling.top_p, sampling.top_k, tuple(given["forbidden"])
        return _Request(settings, row, tokens)

    def _room(self, width: int) -> int:
        """Return a free row of the table of uniforms, which grows if it must."""
        rows, columns = self._uniform.shape
        if not self._free:
            grown = max(2 * rows, 64)
            self._free += range(grown - 1, rows - 1, -1)
            rows = grown
        wide = max(columns, width)
        if (rows, wide) != self._uniform.shape:
            table = self._uniform.new_zeros(rows, wide)
            table[: len(self._uniform), :columns] = self._uniform
            self._uniform = table
        return self._free.pop()

    def _forget(self, place: int) -> None:
        request = self._requests.pop(place, None)
        if request is not None:
            self._free.append(request.row)

    def _grouped(self, count: int) -> list[_Alike]:
        by_settings: dict[tuple[float, float, int, tuple[int, ...]], list[int]] = {}
        for place in sorted(self._requests):
            by_settings.setdefault(self._requests[place].settings, []).append(place)
        groups = []
        for (temperature, top_p, top_k, forbidden), places in by_settings.items():
            requests = [self._requests[place] for place in places]
            groups.append(
                _Alike(
                    None if len(places) == count else torch.tensor(places, device=self._device),
                    torch.tensor([request.row for request in requests], device=self._device),
                    [request.tokens for request in requests],
                    Sampling(0, temperature, top_p, top_k),
                    torch.tensor(forbidden, dtype=torch.long, device=self._device),
                )
            )
        return groups


def _written(tokens: Tensor, logprobs: Tensor, entropy: Tensor, size: int) -> Tensor:
    """Return the logits that leave no choice but the drawn tokens and hold their statistics, ``[N, V]``.

    Args:
        tokens: ``[N]`` long.
        logprobs: nats, ``[N]``, 0 or below.
        entropy: nats, ``[N]``, 0 or above.
        size: size of the vocabulary.
    """
    left = torch.full((len(tokens), size), -torch.inf, device=tokens.device)
    values = torch.stack([torch.full_like(entropy, DRAWN), entropy, logprobs], 1)
    values = values.where(values.isfinite(), BROKEN)
    places = (tokens[:, None] + torch.arange(3, device=tokens.device)) % size
    return left.scatter_(1, places, values)
