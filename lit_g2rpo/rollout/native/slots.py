"""Completions being decoded, one per slot, and a step of all of them."""

from collections import deque
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import embedding

from lit_g2rpo.hardware.transfer import send
from lit_g2rpo.rollout.native.attention import PromptCache, SlotCache, grid_of_heads, shared_attention
from lit_g2rpo.rollout.native.decoder import Decoder
from lit_g2rpo.rollout.native.table import CompletionTable


@dataclass(slots=True, frozen=True)
class StepShape:
    """Sizes of a decoding step.

    Args:
        slots: number of slots decoded, starting at the first.
        span: most tokens in any of them after the step.
        prompts: number of prompts that are read, among them those they belong to.
        group: most slots of one prompt.
    """

    slots: int
    span: int
    prompts: int
    group: int


class Slots:
    """Rows of the table that are being decoded, with occupied slots first.

    Every tensor keeps its address, so that a step can be captured once and replayed.

    Args:
        prompts: keys and values of the prompts.
        table: tokens drawn for each row.
        size: number of slots.
    """

    def __init__(self, decoder: Decoder, prompts: PromptCache, table: CompletionTable, size: int) -> None:
        device = table.start.device
        self.decoder, self.prompts, self.table = decoder, prompts, table
        self.width = table.sampling.max_tokens
        self.cache = SlotCache(decoder, size, self.width)
        self.rotation = decoder.rotation(torch.arange(table.last_position, device=device).expand(3, -1))
        self.row = torch.full((size,), table.spare, device=device)
        self.token = torch.zeros(size, dtype=torch.long, device=device)
        # Index of the token in its completion; it stops advancing when the row is done.
        self.index = torch.zeros(size, dtype=torch.long, device=device)
        self.done = torch.ones(size, dtype=torch.bool, device=device)
        self.grid = torch.zeros(table.spare * decoder.key_heads, dtype=torch.long, device=device)
        self.place = torch.zeros(size * decoder.key_heads, dtype=torch.long, device=device)
        self._heads = torch.arange(decoder.key_heads, device=device)
        self._offset = torch.arange(size * decoder.key_heads, device=device).view(size, -1) * self.width
        self._steps = torch.arange(self.width, device=device)
        self._zero = torch.zeros((), dtype=decoder.score_dtype, device=device)
        self.size = size
        self.rows: list[int] = []
        # `index` of the occupied slots, as read by `turn_over`
        self._reached: list[int] = []
        # the prompt in each place of their cache, and how many of them, in front, are those of occupied slots
        self.held = sorted(set(table.prompt_of_row))
        self.live = 0

    def step(self, shape: StepShape) -> None:
        """Decode one token in each slot."""
        row, token, index, done = (state[: shape.slots] for state in (self.row, self.token, self.index, self.done))
        heads = len(self._heads)
        place = self.place[: shape.slots * heads]
        grid = self.grid[: shape.prompts * heads * shape.group].view(shape.prompts, heads, shape.group)
        at = (self._offset[: shape.slots] + index[:, None]).flatten()
        later = self._steps[: shape.span] > index[:, None]
        bias = self._zero.masked_fill(later, -torch.inf).repeat_interleave(heads, 0)[:, None]

        def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            self.cache.write(layer, at, key, value)
            return shared_attention(layer, query, self.prompts, self.cache, grid, place, bias)

        position = self.table.start.index_select(0, row).add_(index)
        x = embedding(token, self.decoder.embedding)
        cosine, sine = (table.index_select(0, position) for table in self.rotation)
        hidden = self.decoder(x, (cosine, sine), attend)
        index += ~done
        drawn, last = self.table.draw(row.masked_fill(done, self.table.spare), index, self.decoder.logits(hidden))
        token.copy_(drawn)
        done |= last

    @property
    def known(self) -> bool:
        """Return True if all tokens that would be drawn in the slots are known."""
        table = self.table
        return bool(table.known) and all(table.prompt_of_row[row] in table.known for row in self.rows)

    def follow(self) -> None:
        """Advance every slot by one known token."""
        state = self.row, self.token, self.index, self.done
        row, token, index, done = (tensor[: len(self.rows)] for tensor in state)
        index += ~done
        token.copy_(self.table.tokens[row, index])
        done |= self.table.ends(token, index)

    @property
    def longest(self) -> int:
        """Return the most tokens in an occupied slot after the next step."""
        return max(self._reached) + 1

    def turn_over(self, waiting: deque[int]) -> bool:
        """Fill the slots of finished rows with waiting rows, and close the remaining gaps.

        Args:
            waiting: rows whose first token is drawn and not their last; those that get a slot are removed.

        Returns:
            True if the row in any slot changed.
        """
        count = len(self.rows)
        # one copy, for which the host waits
        done, self._reached = torch.stack([self.done[:count].long(), self.index[:count]]).tolist()
        free = [slot for slot, flag in enumerate(done) if flag]
        if not free and self.rows:
            return False
        self.table.end([self.rows[slot] for slot in free])
        gaps = free[len(waiting) :]
        free += range(len(self.rows), self.size)
        taken = free[: len(waiting)]
        if taken:
            self._fill(taken, [waiting.popleft() for _ in taken])
        if gaps:
            self._close(gaps)
        return True

    def _fill(self, slots: list[int], rows: list[int]) -> None:
        fresh = max(slots) + 1 - len(self.rows)
        self.rows += [self.table.spare] * fresh
        self._reached += [0] * fresh
        for slot, row in zip(slots, rows, strict=True):
            self.rows[slot], self._reached[slot] = row, 0
        at, chosen = send(torch.tensor([slots, rows]), self.row.device)
        self.row[at] = chosen
        self.token[at] = self.table.tokens[chosen, 0]
        self.index.index_fill_(0, at, 0)
        self.done.index_fill_(0, at, False)

    def _close(self, gaps: list[int]) -> None:
        kept = len(self.rows) - len(gaps)
        sources = [slot for slot in range(kept, len(self.rows)) if slot not in gaps]
        targets = [slot for slot in gaps if slot < kept]
        if sources:
            self.cache.move(sources, targets, self.longest)
            source, target = send(torch.tensor([sources, targets]), self.row.device)
            for state in (self.row, self.token, self.index, self.done):
                state[target] = state[source]
            for values in (self.rows, self._reached):
                for s, t in zip(sources, targets, strict=True):
                    values[t] = values[s]
        self.row[kept : len(self.rows)] = self.table.spare
        self.done[kept : len(self.rows)] = True
        del self.rows[kept:], self._reached[kept:]

    def gather_prompts(self) -> None:
        """Move the prompts of occupied slots to the front of their cache, over prompts that are done."""
        live = {self.table.prompt_of_row[row] for row in self.rows}
        self.live = len(live)
        # Rows start in the order of their prompts, so no prompt in front is still waiting.
        late = [place for place in range(self.live, len(self.held)) if self.held[place] in live]
        free = [place for place in range(self.live) if self.held[place] not in live]
        for source, target in zip(late, free, strict=True):
            self.prompts.move(source, target)
            self.held[source], self.held[target] = self.held[target], self.held[source]

    def arrange(self, slots: int, prompts: int, group: int | None = None) -> int:
        """Assign slots to prompts.

        Args:
            slots: number of slots that are decoded, starting at the first.
            prompts: number of prompts that are read, starting at the first in their cache.
            group: number of slots reserved per prompt; None for what the largest group needs.

        Returns:
            That number.
        """
        members: dict[int, list[int]] = {prompt: [] for prompt in self.held[: self.live]}
        for slot, row in enumerate(self.rows):
            members[self.table.prompt_of_row[row]].append(slot)
        group = group or max(len(own) for own in members.values())
        places = [0] * slots
        grid = [0] * (group * prompts)
        for i, own in enumerate(members.values()):
            for j, slot in enumerate(own):
                grid[i * group + j], places[slot] = slot, i * group + j
        both = send(torch.tensor([*grid, *places]), self.grid.device)
        arranged = grid_of_heads(both[: len(grid)].view(-1, group), both[len(grid) :], self._heads)
        for state, fresh in zip((self.grid, self.place), arranged, strict=True):
            state[: fresh.numel()] = fresh.flatten()
        return group
