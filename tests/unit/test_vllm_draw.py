"""The draw inside vLLM, without vLLM: what it draws, and which request is which while a batch changes."""

from dataclasses import dataclass, field
from enum import Enum, auto
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from lit_g2rpo.rollout.engine import Sampling
from lit_g2rpo.rollout.sampling import draw_with_stats, uniforms
from lit_g2rpo.rollout.vllm import draw
from lit_g2rpo.rollout.vllm.draw import BatchedDraw, read, request_arguments

VOCABULARY = 50
FORBIDDEN = [3, 4]


class Direction(Enum):
    """As vLLM's ``MoveDirectionality``."""

    UNIDIRECTIONAL = auto()
    SWAP = auto()


@dataclass
class Update:
    """As vLLM's ``BatchUpdate``."""

    removed: list[int] = field(default_factory=list)
    added: list[tuple[int, Any, None, list[int]]] = field(default_factory=list)
    moved: list[tuple[int, int, Direction]] = field(default_factory=list)


@dataclass(eq=False)
class Row:
    """A request: its settings, and its tokens so far."""

    name: str
    completion: int
    sampling: Sampling
    tokens: list[int] = field(default_factory=list)

    def added(self, place: int, seed: int | None = None) -> tuple[int, Any, None, list[int]]:
        arguments = request_arguments(self.sampling, self.name, self.completion - (seed or 0), FORBIDDEN)
        return place, SimpleNamespace(extra_args=arguments, seed=seed), None, self.tokens

    def expected(self, logits: Tensor) -> tuple[int, float, float]:
        uniform = torch.from_numpy(uniforms(self.sampling, self.name, self.completion))[len(self.tokens)]
        drawn = draw_with_stats(logits[None], uniform[None], self.sampling, torch.tensor(FORBIDDEN))
        token, logprob, entropy = (float(value[0]) for value in drawn)
        return int(token), logprob, entropy


def step(processor: BatchedDraw, batch: list[Row | None], update: Update | None, generator: torch.Generator) -> None:
    """Draw one token for each row of a batch, compare each with a draw of its own, and append it."""
    logits = 3 * torch.randn(len(batch), VOCABULARY, generator=generator)
    expected = [row and row.expected(own) for row, own in zip(batch, logits, strict=True)]
    before = logits.clone()
    processor.update_state(update)
    left = processor.apply(logits)
    for place, row in enumerate(batch):
        if row is None:
            assert torch.equal(left[place], before[place])
            continue
        token, logprob, entropy = expected[place] or (0, 0.0, 0.0)
        assert int(left[place].argmax()) == token
        assert left[place].softmax(-1)[token] == 1
        found = read(left[place].topk(3).values[None])
        assert [float(value) for value in found] == pytest.approx([logprob, entropy], abs=1e-6)
        row.tokens.append(token)


def test_rows_enter_leave_move_and_return_as_vllm_moves_them() -> None:
    generator, processor = torch.Generator().manual_seed(0), BatchedDraw(torch.device("cpu"))
    plain, cold, greedy = Sampling(9, seed=4), Sampling(40, 0.7, 0.9, 12, rollout=2), Sampling(9, 0.0, wave=1)
    a, b, c = Row("a", 0, plain), Row("a", 1, plain), Row("b", 5, cold)
    step(processor, [a, b], Update(added=[a.added(0), b.added(1, seed=1)]), generator)
    step(processor, [a, b], None, generator)
    # another prompt, with other settings, and a request of somebody else
    other = 3, SimpleNamespace(extra_args=None, seed=None), None, []
    step(processor, [a, b, c, None], Update(added=[c.added(2), other]), generator)
    # the first leaves, and the last one takes its place
    step(processor, [None, b, c], Update(removed=[0], moved=[(3, 0, Direction.UNIDIRECTIONAL)]), generator)
    d = Row("d", 0, greedy)
    step(processor, [None, c, b, d], Update(added=[d.added(3)], moved=[(1, 2, Direction.SWAP)]), generator)
    # one returns after it was preempted, in the place of another that has ended
    step(processor, [a, c, b, d], Update(added=[a.added(0)]), generator)
    step(processor, [a, d, b], Update(removed=[1], moved=[(3, 1, Direction.UNIDIRECTIONAL)]), generator)
    assert [len(row.tokens) for row in (a, b, c, d)] == [5, 7, 4, 3]


def test_many_rows_come_and_go_and_the_table_does_not_grow_forever() -> None:
    generator, processor = torch.Generator().manual_seed(1), BatchedDraw(torch.device("cpu"))
    batch = [Row(f"p{i}", i, Sampling(4, seed=i % 2)) for i in range(100)]
    step(processor, batch, Update(added=[row.added(place) for place, row in enumerate(batch)]), generator)
    for turn in range(5):
        batch = [Row(f"t{turn} {i}", 0, Sampling(4 + turn)) for i in range(100)]
        step(processor, batch, Update(added=[row.added(place) for place, row in enumerate(batch)]), generator)
    assert processor._uniform.shape == (128, 8)


def test_requests_of_equal_settings_are_drawn_in_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def counted(logits: Tensor, *rest: Any) -> Any:
        sizes.append(len(logits))
        return draw_with_stats(logits, *rest)

    monkeypatch.setattr(draw, "draw_with_stats", counted)
    processor = BatchedDraw(torch.device("cpu"))
    # seed, rollout and length differ, which is no matter of settings
    rows = [Row(f"p{i}", 0, Sampling(4 + i, 0.5 if i % 3 == 0 else 1.0, seed=i, rollout=i)) for i in range(12)]
    processor.update_state(Update(added=[row.added(place) for place, row in enumerate(rows)]))
    processor.apply(torch.zeros(12, VOCABULARY))
    assert sorted(sizes) == [4, 8]


def test_what_is_not_finite_is_read_as_such() -> None:
    """Such a number must survive JSON, which has none."""
    processor, row = BatchedDraw(torch.device("cpu")), Row("a", 0, Sampling(3))
    processor.update_state(Update(added=[row.added(0)]))
    left = processor.apply(torch.full((1, VOCABULARY), torch.nan))
    values = left.topk(3).values
    assert values.isfinite().all()
    assert all(value.isnan().all() for value in read(values))


def test_statistics_are_read_in_any_order_and_with_the_drawn_token_twice() -> None:
    values = torch.tensor([[-1.5, 200.0, 2.25, 200.0], [200.0, 0.0, 0.0, 200.0]])
    logprobs, entropy = read(values)
    assert (logprobs.tolist(), entropy.tolist()) == ([-1.5, 0.0], [2.25, 0.0])


def test_logits_that_nobody_drew_from_are_refused() -> None:
    with pytest.raises(RuntimeError, match=r"vLLM did not draw with lit_g2rpo.rollout.vllm.processor:CounterDraw"):
        read(torch.randn(4, 3))
