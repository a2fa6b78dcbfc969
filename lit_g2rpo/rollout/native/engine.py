"""The native engine: it reads prompts and images once, and decodes without the model's own code around the weights."""

from collections import deque
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from lit_g2rpo.experience import Completion, Prompt
from lit_g2rpo.hardware.transfer import send
from lit_g2rpo.rollout.engine import Finished, RolloutEngine, Sampling, announce
from lit_g2rpo.rollout.native.attention import PromptCache
from lit_g2rpo.rollout.native.decoder import Decoder
from lit_g2rpo.rollout.native.fixed_shapes import CHECK_EVERY, StaticRollout
from lit_g2rpo.rollout.native.graphs import captured
from lit_g2rpo.rollout.native.prefill import prefill
from lit_g2rpo.rollout.native.slots import Slots, StepShape
from lit_g2rpo.rollout.native.table import CompletionTable

FIXED_SLOTS = 64
"""Slots on devices that need fixed shapes."""

PROMPT_MULTIPLE = 128
"""With fixed shapes, the capacity for a prompt is a multiple of this, so that rollouts share shapes."""


class NativeEngine(RolloutEngine):
    """Sample with the policy's live weights, which it reads again for each rollout.

    The engine holds complete groups, at most ``max_rows`` rows at a time; a larger group keeps its prompt while its
    rows take turns, so that every prompt is read once. Raises `UserError` for parts that only ``huggingface`` supports.

    Rounding depends on which rows are decoded together, so known rows keep their slots; only steps with nothing but
    known rows, packs of known prompts and known chunks of ``max_rows`` are skipped.

    Args:
        max_rows: most rows held at a time.
        slots: rows decoded at a time in a fixed shape, replacing finished rows with waiting ones, as devices with
            graphs or compiled shapes need; None drops finished rows on the CPU and means 64 elsewhere.
        prefill_mib: most memory for reading prompts at a time, MiB; one that needs more is read alone.
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
            # Before inference mode, because training cannot use its tensors.
            with torch.no_grad():
                self.policy.prepare_features(prompts)
            size = max(self.max_rows // group_size, 1)
            completions = []
            # Without autograd's bookkeeping, which is 7 % of a small policy's rollout. XLA has no inference mode.
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
        """Decode only the rows that are not done."""
        group = 0
        while True:
            if slots.turn_over(waiting):
                if not slots.rows:
                    return
                slots.gather_prompts()
                group = slots.arrange(len(slots.rows), slots.live)
            if slots.known:
                slots.follow()
                continue
            slots.step(StepShape(len(slots.rows), slots.longest, slots.live, group))
            self.policy.backbone.counters.row_steps += len(slots.rows)

    def _decode_fixed(self, slots: Slots, waiting: deque[int], group: int) -> None:
        """Decode in a few shapes: sizes are rounded up, and finished rows are checked every few steps."""
        step = captured(slots.step) if self.policy.device.type == "cuda" else slots.step
        rows = prompts = 0
        while True:
            if slots.turn_over(waiting):
                if not slots.rows:
                    return
                slots.gather_prompts()
                rows = _rounded(len(slots.rows), slots.size)
                prompts = _rounded(slots.live, min(len(slots.held), slots.size))
                slots.arrange(rows, prompts, group)
            if slots.known:
                for _ in range(CHECK_EVERY):
                    slots.follow()
                continue
            span = _rounded(min(slots.longest + CHECK_EVERY, slots.width), slots.width)
            shape = StepShape(rows, span, prompts, group)
            for _ in range(CHECK_EVERY):
                step(shape)
            self.policy.backbone.counters.row_steps += CHECK_EVERY * shape.slots


def _draw_first(table: CompletionTable, logits: Tensor, size: int) -> deque[int]:
    """Draw each row's first token from its prompt's logits ``[P, V]``; return the rows that go on."""
    prompt_of_row = send(torch.tensor(table.prompt_of_row), logits.device)
    rows = torch.arange(table.spare, device=logits.device)
    last = [
        table.draw(part, torch.zeros_like(part), logits[prompt_of_row[part]])[1] for part in torch.split(rows, size)
    ]
    ended = torch.cat(last).tolist()
    table.end([row for row, flag in enumerate(ended) if flag])
    return deque(row for row, flag in enumerate(ended) if not flag)


def _told(finished: Finished, start: int, index: int, completions: list[Completion]) -> None:
    finished(start + index, completions)


def _rounded(size: int, full: int) -> int:
    """Return the smallest of an eighth, a quarter, a half or all of ``full`` that fits ``size``."""
    return next(part for part in (-(-full // 8), -(-full // 4), -(-full // 2), full) if part >= size)
