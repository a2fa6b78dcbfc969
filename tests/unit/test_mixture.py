"""Shares of the tasks, and the sampler that draws rollouts and refills from them."""

import logging
from collections import Counter
from fractions import Fraction
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_g2rpo.data.order.mixture import UNIT, MixedStream, Mixture, largest_remainder
from lit_g2rpo.data.order.sampler import TaskMixtureSampler
from lit_g2rpo.data.order.stream import PromptStream
from lit_g2rpo.errors import UserError

NAMES = ["a"] * 100 + ["b"] * 25 + ["c"] * 4


def counts(stream: MixedStream, rollouts: int) -> list[Counter[str]]:
    size = stream.prompts
    return [Counter(task for task, _ in stream.draws(r * size, size)) for r in range(rollouts)]


def test_largest_remainder_by_hand() -> None:
    assert largest_remainder([Fraction("4.7"), Fraction("3.3"), Fraction(2)], 10) == [5, 3, 2]
    assert largest_remainder([Fraction("2.5"), Fraction("2.5"), Fraction(5)], 10) == [3, 2, 5]
    assert largest_remainder([Fraction("0.4")] * 5, 2) == [1, 1, 0, 0, 0]


def test_shares_by_temperature_by_hand() -> None:
    # sqrt of the sizes: 10, 5, 2; of 34 groups 20, 10, 4
    stream = MixedStream(NAMES, 0, Mixture(alpha=0.5), 34)
    assert stream.expected == [20 * UNIT, 10 * UNIT, 4 * UNIT]
    assert counts(stream, 3) == [Counter(a=20, b=10, c=4)] * 3
    # in proportion to the rows, b twice: 100, 50, 4; of 77 groups 50, 25, 2
    assert counts(MixedStream(NAMES, 0, Mixture(alpha=1, weights={"b": 2}), 77), 1) == [Counter(a=50, b=25, c=2)]
    assert counts(MixedStream(NAMES, 0, Mixture(weights={"b": 0}), 6), 2) == [Counter(a=3, c=3)] * 2


def test_quotas_are_kept_in_every_rollout() -> None:
    stream = MixedStream(NAMES, 0, Mixture(quotas={"a": 7, "b": 1, "c": 0}), 8)
    assert counts(stream, 20) == [Counter(a=7, b=1)] * 20


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(st.sampled_from("abcde"), st.integers(1, 200), min_size=1),
    st.floats(0, 2),
    st.lists(st.floats(0.01, 10), min_size=5, max_size=5),
    st.integers(2, 40),
)
def test_every_mixture_keeps_its_shares_in_pairs(
    sizes: dict[str, int], alpha: float, weights: list[float], prompts: int
) -> None:
    names = [name for name, size in sizes.items() for _ in range(size)]
    named = {name: weight for name, weight in zip("abcde", weights, strict=True) if name in sizes}
    stream = MixedStream(names, 0, Mixture(alpha=alpha, weights=named), prompts)
    shares = {name: named[name] * size**alpha for name, size in sizes.items()}
    dealt: Counter[str] = Counter()
    for number, rollout in enumerate(counts(stream, 40), 1):
        assert rollout.total() == prompts
        assert min(rollout.values()) >= 2
        dealt += rollout
        for name, share in shares.items():
            owed = number * prompts * share / sum(shares.values())
            # two groups at once, and what other tasks' pairs displace
            assert abs(dealt[name] - owed) < 2 + len(sizes)


@given(st.lists(st.integers(0, 400), min_size=1, max_size=12), st.integers(0, 3))
def test_a_position_holds_the_same_row_whatever_was_asked_before(asked: list[int], seed: int) -> None:
    straight = MixedStream(NAMES, seed, Mixture(alpha=0.3), 7).rows(0, 401)
    stream = MixedStream(NAMES, seed, Mixture(alpha=0.3), 7)
    assert [stream.rows(position, 1)[0] for position in asked] == [straight[position] for position in asked]


@pytest.mark.parametrize("stream", [PromptStream(NAMES, 3), MixedStream(NAMES, 3, Mixture(alpha=0.4), 10)])
def test_draws_before_a_position_are_counted(stream: PromptStream) -> None:
    draws = stream.draws(0, 60)
    for position in range(60):
        before = Counter(task for task, _ in draws[:position])
        assert {task: stream.dealt(task, position) for task in "abc"} == {task: before[task] for task in "abc"}
    for task in "abc":
        assert [number for name, number in draws if name == task] == list(range(Counter(t for t, _ in draws)[task]))


@pytest.mark.parametrize(
    ("mixture", "message"),
    [
        ({"weights": {"d": 1}}, "data.mixture.weights.d: the data has no such task; it has a, b, c"),
        ({"quotas": {"a": 4, "b": 4}}, "data.mixture.quotas has none for task c of the data"),
        ({"quotas": {"a": 4, "b": 4, "c": 1}}, "add up to 9; they must add up to rollout.prompts, 8"),
        ({"quotas": {"a": -1, "b": 9, "c": 0}}, "data.mixture.quotas.a is -1; it must be 0 or more"),
        ({"quotas": {"a": 8}, "alpha": 1.0}, "quotas and weights or alpha; give the one or the other"),
        ({"weights": {"a": 0, "b": 0, "c": 0}}, "weights are all 0"),
        ({"weights": {"a": float("nan")}}, "data.mixture.weights.a is nan"),
        ({"alpha": -1.0}, "data.mixture.alpha is -1.0; it must be 0 or more"),
    ],
)
def test_mixtures_that_do_not_fit(mixture: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        MixedStream(NAMES, 0, Mixture(**mixture), 8)


def sampler(mixture: Mixture | None = None, **options: int) -> TaskMixtureSampler:
    return TaskMixtureSampler(NAMES, 5, **({"prompts": 12} | options), mixture=mixture)  # type: ignore[arg-type]


MIXTURES = [None, Mixture(alpha=0.5), Mixture(quotas={"a": 6, "b": 4, "c": 2})]


@pytest.mark.parametrize("mixture", MIXTURES)
@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_ranks_share_rollouts_and_refills(mixture: Mixture | None, world_size: int) -> None:
    whole = sampler(mixture)
    parts = [sampler(mixture, rank=rank, world_size=world_size) for rank in range(world_size)]
    for _ in range(4):
        shares = [part.rows() for part in parts]
        assert [row for rows in zip(*shares, strict=True) for row in rows] == whole.rows()
        tasks = ["a", "c", "b", "a"] * 3
        refills = [part.refill(tasks) for part in parts]
        together = whole.refill(tasks)
        assert all(refill == together for refill in refills)
        for part in (whole, *parts):
            part.advance()
    if mixture is not None:
        per_rank = [Counter(NAMES[row] for row in rows) for rows in shares]
        for one, other in pairwise(per_rank):
            assert all(abs(one[task] - other[task]) <= 1 for task in "abc")


@pytest.mark.parametrize("mixture", MIXTURES)
def test_without_refills_the_rows_are_the_streams(mixture: Mixture | None) -> None:
    one = sampler(mixture)
    for number in range(5):
        assert one.rows() == one.stream.rows(12 * number, 12)
        assert one.rows_ahead() == one.stream.rows(12 * (number + 1), 12)
        one.advance()


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from("abc"), max_size=9), min_size=8, max_size=8),
    st.integers(0, 7),
    st.integers(0, 9),
    st.sampled_from(MIXTURES),
)
def test_refills_resume_exactly_and_no_pass_deals_a_row_twice(
    plan: list[list[str]], cut: int, part: int, mixture: Mixture | None
) -> None:
    one, rows, ahead = sampler(mixture), [], None
    state: dict[str, Any] = {}
    for number, tasks in enumerate(plan):
        present = one.rows()
        assert ahead is None or present == ahead, "what was opened ahead of time is what comes"
        ahead = one.rows_ahead()
        rows += present
        if number == cut:
            early = one.refill(tasks[:part])
            state = one.state_dict()
            rows += early + one.refill(tasks[part:])
        else:
            rows += one.refill(tasks)
        assert ahead == one.rows_ahead()
        one.advance()
    other = sampler(mixture)
    other.load_state_dict(state)
    found = other.refill(plan[cut][part:])
    other.advance()
    for tasks in plan[cut + 1 :]:
        found += other.rows() + other.refill(tasks)
        other.advance()
    # the cut lies behind the rollout's own rows and its first refill
    start = len(rows) - len(found)
    assert found == rows[start:]
    for task, size in (("a", 100), ("b", 25)):
        drawn = [row for row in rows if NAMES[row] == task]
        # refills are drawn behind the next rollout, so a pass is complete but for what was fixed ahead
        assert max(Counter(drawn).values()) <= -(-len(drawn) // size) + 1


def test_rows_of_a_task_come_once_per_pass_with_refills() -> None:
    names = ["a"] * 60
    one = TaskMixtureSampler(names, 0, prompts=4)
    rows: list[int] = []
    for refills in (3, 0, 2, 5, 1, 0, 4, 0, 0):
        rows += one.rows() + one.refill(["a"] * refills)
        one.advance()
    assert len(rows) == len(set(rows)) == 51


def test_warnings(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    sampler()
    sampler(Mixture(alpha=1.0))
    assert not caplog.messages
    sampler(prompts=3)
    assert caplog.messages.pop().startswith("a rollout of 3 prompts has one group of a, b, c: there is no other group")
    caplog.clear()
    sampler(Mixture(quotas={"a": 6, "b": 5, "c": 1}))
    assert "one group of c:" in caplog.messages[0]
    caplog.clear()
    sampler(prompts=18)
    assert caplog.messages == ["task c has 4 rows, but a rollout has 6 groups of it: some rollouts hold a prompt twice"]


def test_long_runs_are_cheap() -> None:
    stream = MixedStream(NAMES, 0, Mixture(alpha=0.7), 512)
    assert len(stream.draws(20_000 * 512, 512)) == 512
    assert sum(stream._until(20_000)) == 20_000 * 512
