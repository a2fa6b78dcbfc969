"""The native engine: prompts and images read once, decoding without the model's own code around the weights."""

from collections import deque
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from lit_g2rpo.experience import Completion, Prompt
from lit_g2rpo.rollout.engine import Finished, RolloutEngine, Sampling, announce
from lit_g2rpo.rollout.native.attention import PromptCache
from lit_g2rpo.rollout.native.decoder import Decoder
from lit_g2rpo.rollout.native.fixed_shapes import CHECK_EVERY, StaticRollout
from lit_g2rpo.rollout.native.graphs import captured
from lit_g2rpo.rollout.native.prefill import prefill
from lit_g2rpo.rollout.native.slots import Slots, StepShape
from lit_g2rpo.rollout.native.table import CompletionTable

FIXED_SLOTS = 64
"""Slots on devices that want fixed shapes."""

PROMPT_MULTIPLE = 128
"""Room for a prompt is a multiple of this where shapes are fixed, so that rollouts share them."""


class NativeEngine(RolloutEngine):
    """Sample with the policy's live weights, which it reads anew for each rollout.

    Whole groups are held at a time, at most ``max_rows`` rows of them; a larger group keeps its prompt while its rows
    take turns, so that every prompt is read once. A part that only ``huggingface`` knows is a `UserError`.

    What is known of a chunk of ``max_rows`` fixes which rows are decoded together, and so how the others are rounded:
    known rows keep their slots, but a step of known rows alone, a pack of known prompts and a known chunk are left out.

    Args:
        max_rows: most rows held at a time.
        slots: rows decoded at a time in a fixed shape, finished ones replaced by waiting ones, as devices with graphs
            or compiled shapes want it; None drops finished rows on the CPU and takes 64 elsewhere.
        prefill_mib: most memory that prompts are read in at a time, MiB; one that needs more is read alone.
    """

    fixed_shapes: ClassVar[bool] = True

    def __init__(self, max_rows: int = 512, slots: int | None = None, prefill_mib: float = 1024) -> None:
        self.max_rows, self.slots, self.prefill_mib = max_rows, slots, prefill_mib

    @override
    def generate(
        self, prompts: list[Prompt], group_size: int, sampling: Sampling, finished: Finished | None = None
    ) -> list[Completion]:
        training = self.policy.training
        self.policy.eval()
        try:
            # Before inference mode, whose tensors a training pass could not use.
            with torch.no_grad():
                self.policy.prepare_features(prompts)
            size = max(self.max_rows // group_size, 1)
            completions = []
            # Without the bookkeeping of autograd: 7 % of a rollout of a small policy. XLA knows no inference mode.
            with torch.no_grad() if self.policy.device.type == "xla" else torch.inference_mode():
                decoder = Decoder(self.policy.backbone)
                for start in range(0, len(prompts), size):
                    own = prompts[start : start + size]
                    told = finished and partial(_told, finished, start)
                    if all(prompt.id in self.known for prompt in own):
                        completions += [completion for prompt in own for completion in self.known[prompt.id]]
                        announce(completions[start * group_size :], group_size, told)
                    else:
                        completions += self._generate(decoder, own, group_size, sampling, told)
            return completions
        finally:
            self.policy.train(training)

    def _generate(
        self,
        decoder: Decoder,
        prompts: list[Prompt],
        group_size: int,
        sampling: Sampling,
        finished: Finished | None,
    ) -> list[Completion]:
        policy = self.policy
        if policy.static:
            rollout = StaticRollout(policy, decoder, prompts, group_size, sampling, self.slots or FIXED_SLOTS, finished)
            rollout.prefill()
            rollout.decode()
            return rollout.table.completions()
        fixed = self.slots or (None if policy.device.type == "cpu" else FIXED_SLOTS)
        encoded = [policy.encode(prompt) for prompt in prompts]
        lengths = [len(prompt.input_ids) for prompt in encoded]
        room = -(-max(lengths) // PROMPT_MULTIPLE) * PROMPT_MULTIPLE if fixed else max(lengths)
        cache = PromptCache(decoder, lengths, room)
        needed = [prompt.id not in self.known for prompt in prompts]
        hidden = prefill(policy.backbone, decoder, encoded, cache, self.prefill_mib, needed)
        table = CompletionTable(policy, prompts, encoded, group_size, sampling, finished, self.known)
        size = min(fixed or self.max_rows, table.spare)
        waiting = _draw_first(table, decoder.logits(hidden), size)
        if waiting:
            slots = Slots(decoder, cache, table, size)
            if fixed:
                self._decode_fixed(slots, waiting, group_size)
            else:
                self._decode_compact(slots, waiting)
        return table.completions()

    def _decode_compact(self, slots: Slots, waiting: deque[int]) -> None:
        """Decode the rows that are not done, and no others."""
        group = 0
        while True:
            if slots.turn_over(waiting):
                if not slots.rows:
                    return
                slots.drop_prompts(waiting)
                group = slots.arrange()
            if slots.known:
                slots.follow()
                continue
            slots.step(StepShape(len(slots.rows), slots.longest, len(slots.held), group))
            self.policy.backbone.counters.row_steps += len(slots.rows)

    def _decode_fixed(self, slots: Slots, waiting: deque[int], group: int) -> None:
        """Decode in few shapes: sizes are rounded up, and what is done is looked at every few steps."""
        step = captured(slots.step) if self.policy.device.type == "cuda" else slots.step
        while True:
            if slots.turn_over(waiting):
                if not slots.rows:
                    return
                slots.arrange(group)
            if slots.known:
                for _ in range(CHECK_EVERY):
                    slots.follow()
                continue
            span = _rounded(min(slots.longest + CHECK_EVERY, slots.width), slots.width)
            shape = StepShape(_rounded(len(slots.rows), slots.size), span, len(slots.held), group)
            for _ in range(CHECK_EVERY):
                step(shape)
            self.policy.backbone.counters.row_steps += CHECK_EVERY * shape.slots


def _draw_first(table: CompletionTable, logits: Tensor, size: int) -> deque[int]:
    """Draw each row's first token from its prompt's logits ``[P, V]``; return the rows it does not end."""
    prompt_of_row = torch.tensor(table.prompt_of_row, device=logits.device)
    waiting: deque[int] = deque()
    for rows in torch.split(torch.arange(table.spare, device=logits.device), size):
        _, last = table.draw(rows, torch.zeros_like(rows), logits[prompt_of_row[rows]])
        waiting += rows[~last].tolist()
        table.end(rows[last].tolist())
    return waiting


def _told(finished: Finished, start: int, index: int, completions: list[Completion]) -> None:
    finished(start + index, completions)


def _rounded(size: int, full: int) -> int:
    """Find the smallest eighth, quarter, half or whole of ``full`` that holds ``size``."""
    return next(part for part in (-(-full // 8), -(-full // 4), -(-full // 2), full) if part >= size)
