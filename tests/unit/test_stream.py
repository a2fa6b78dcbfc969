"""The prompt order: quotas, passes, purity and cost."""

import tracemalloc
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_g2rpo.data.order.stream import PromptStream
from lit_g2rpo.errors import UserError

names_lists = st.lists(st.sampled_from(["a", "b", "c", "d"]), min_size=1, max_size=30)


@given(names_lists, st.integers(0, 5), st.integers(0, 300), st.integers(1, 40))
def test_any_window_holds_each_task_about_equally_often(names: list[str], seed: int, start: int, count: int) -> None:
    rows = PromptStream(names, seed).rows(start, count)
    counts, tasks = Counter(names[row] for row in rows), len(set(names))
    for name in set(names):
        assert count // tasks - 1 <= counts[name] <= -(-count // tasks) + 1


@given(names_lists, st.integers(0, 5), st.integers(0, 50), st.integers(1, 6))
def test_whole_rounds_hold_each_task_equally_often(names: list[str], seed: int, first: int, rounds: int) -> None:
    tasks = len(set(names))
    rows = PromptStream(names, seed).rows(first * tasks, rounds * tasks)
    assert set(Counter(names[row] for row in rows).values()) == {rounds}


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_every_rank_meets_all_tasks(world_size: int) -> None:
    names = ["a", "b", "c", "d", "e", "f"] * 8
    rows = PromptStream(names, 0).rows(0, 48)
    assert all({names[row] for row in rows[rank::world_size]} == set(names) for rank in range(world_size))


@given(names_lists, st.integers(0, 5), st.lists(st.integers(0, 200), min_size=1, max_size=20))
def test_a_position_holds_the_same_row_whatever_was_asked_before(names: list[str], seed: int, asked: list[int]) -> None:
    straight = PromptStream(names, seed).rows(0, 201)
    stream = PromptStream(names, seed)
    assert [stream.rows(position, 1)[0] for position in asked] == [straight[position] for position in asked]


@given(names_lists, st.integers(0, 5))
def test_a_pass_holds_every_row_once(names: list[str], seed: int) -> None:
    stream = PromptStream(names, seed)
    tasks = len(stream.tasks)
    for name in stream.tasks:
        own = [row for row, task in enumerate(names) if task == name]
        dealt = [row for row in stream.rows(0, 3 * tasks * len(own)) if names[row] == name]
        for number in range(3):
            assert sorted(dealt[number * len(own) : (number + 1) * len(own)]) == own


def test_passes_and_seeds_differ() -> None:
    names = ["a"] * 50
    stream = PromptStream(names, 0)
    orders = [stream.rows(50 * number, 50) for number in range(3)] + [PromptStream(names, 1).rows(0, 50)]
    assert all(one != other for one, other in pairwise(orders))


def test_the_order_is_fixed_for_ever() -> None:
    assert PromptStream(["a", "b"] * 4, 7).rows(0, 10) == [2, 5, 7, 6, 4, 3, 1, 0, 4, 1]


def test_another_task_leaves_a_tasks_order_alone() -> None:
    without = PromptStream(["a"] * 9, 3).rows(0, 9)
    among = [row for row in PromptStream(["a"] * 9 + ["b"] * 9, 3).rows(0, 18) if row < 9]
    assert without == among


def test_following_rows_of_the_task() -> None:
    stream = PromptStream(["a", "b", "a", "b", "a"], 0)
    assert list(stream.following(2, "a")) == [4, 0]
    assert list(stream.following(3, "b")) == [1]


def test_no_rows() -> None:
    with pytest.raises(UserError, match="no rows"):
        PromptStream([], 0)


def test_large_data_is_cheap() -> None:
    names = ["abcdef"[i % 6] for i in range(60_000)]
    tracemalloc.start()
    stream = PromptStream(names, 0)
    stream.rows(0, 512)
    size = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert size < 2e6
