"""A list of guesses earns no more than the best of them, whatever is believed; a broken item spoils only itself."""

import itertools
import json
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from helpers.reward_cases import GOLD, accuracy
from hypothesis import given, settings
from hypothesis import strategies as st

PLACES = [[x, y, x + 40, y + 40] for x in (0, 30, 500) for y in (0, 10, 600)]
"""Boxes, some of which overlap by half."""
LABELS = ["dog", "cat", "cow"]
MOST_GUESSES = 5

Guess = Any
Worlds = list[tuple[float, list[Guess]]]


def boxes(guesses: Sequence[Guess]) -> str:
    return json.dumps([{"bbox_2d": PLACES[place], "label": "dog"} for place, _ in guesses])


def labels(guesses: Sequence[Guess]) -> str:
    return json.dumps([{"bbox_2d": PLACES[0], "label": LABELS[label]} for _, label in guesses])


def labelled(guesses: Sequence[Guess]) -> str:
    return json.dumps([{"bbox_2d": PLACES[place], "label": LABELS[label]} for place, label in guesses])


def plain(guesses: Sequence[Guess]) -> str:
    return json.dumps({"boxes": [PLACES[place] for place, _ in guesses]})


def near(guesses: Sequence[Guess]) -> str:
    return json.dumps({"points": [PLACES[place][:2] for place, _ in guesses]})


def seconds(guesses: Sequence[Guess]) -> str:
    return json.dumps({"boxes": {str(place): PLACES[label] for place, label in guesses}})


def timed(guesses: Sequence[Guess]) -> str:
    return json.dumps({"time": [0, 9], "boxes": {str(place): PLACES[label] for place, label in guesses}})


def expected(kind: str, write: Callable[[Sequence[Guess]], str], guesses: Sequence[Guess], worlds: Worlds) -> float:
    return sum(share * accuracy(kind, write(guesses), write(gold)) for share, gold in worlds)


def believed(rng: random.Random, objects: int, distinct: bool) -> Worlds:
    """A belief over where so many objects are, joint: the places of two objects may hang together."""
    worlds: Worlds = []
    for _ in range(rng.randint(1, 5)):
        places = rng.sample(range(9), objects) if distinct else rng.choices(range(9), k=objects)
        worlds.append((rng.random(), [(place, rng.randrange(3)) for place in places]))
    total = sum(share for share, _ in worlds)
    return [(share / total, gold) for share, gold in worlds]


CASES = [
    ("detection", boxes), ("detection", labels), ("detection", labelled), ("detection", plain),
    ("point grounding", near), ("tracking", seconds), ("spatial-temporal grounding", timed),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "write"), CASES)
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), objects=st.integers(1, 3), count=st.integers(1, MOST_GUESSES))
def test_a_list_earns_no_more_than_its_best_guesses(
    kind: str, write: Callable[[Sequence[Guess]], str], seed: int, objects: int, count: int
) -> None:
    rng = random.Random(seed)
    in_time = write in (seconds, timed)
    worlds = believed(rng, objects, distinct=in_time)
    offered = [guess for _, gold in worlds for guess in gold]
    guesses = [
        rng.choice(offered) if rng.random() < 0.8 else (rng.randrange(9), rng.randrange(3)) for _ in range(count)
    ]
    if in_time:
        guesses = list(dict(guesses).items())
    best = max(
        expected(kind, write, some, worlds) for some in itertools.combinations(guesses, min(objects, len(guesses)))
    )
    assert expected(kind, write, guesses, worlds) <= best + 1e-9


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), count=st.integers(1, MOST_GUESSES))
def test_points_in_a_region_earn_no_more_than_the_best_one(seed: int, count: int) -> None:
    rng = random.Random(seed)
    worlds = [(1 / 3, PLACES[rng.randrange(9)]) for _ in range(3)]
    guesses = [[rng.randint(0, 70), rng.randint(0, 70)] for _ in range(count)]

    def earned(some: list[list[int]]) -> float:
        return sum(p * accuracy("point grounding", json.dumps(some), json.dumps({"boxes": gold})) for p, gold in worlds)

    assert earned(guesses) <= max(earned([guess]) for guess in guesses) + 1e-9


def test_lists_that_used_to_pay() -> None:
    """Values by hand: k places or labels of one object earn 1 / k, and guesses of two objects two places each 1 / 2."""
    dog = {"bbox_2d": [0, 0, 100, 100], "label": "dog"}
    for k in range(1, 6):
        other = [{"bbox_2d": [200 * i, 500, 200 * i + 90, 600], "label": "dog"} for i in range(k - 1)]
        assert accuracy("detection", json.dumps([*other, dog]), json.dumps([dog])) == pytest.approx(1 / k)
        named = [dog | {"label": label} for label in "abcde"[: k - 1]]
        assert accuracy("detection", json.dumps([*named, dog]), json.dumps([dog])) == pytest.approx(1 / k)
        track = {str(second): [0, 0, 100, 100] for second in range(k)}
        gold = '{"boxes": {"0": [0, 0, 100, 100]}}'
        assert accuracy("tracking", json.dumps({"boxes": track}), gold) == pytest.approx(1 / k)


BROKEN = [
    "[1, 2, 3]", "[100, 100, 100, 300]", "[300, 300, 100, 100]", "[0, 0, 1001, 5]", "[-1, 0, 5, 5]", "null", "[]", "7",
    '["0", "0", "5", "5"]', "[NaN, 0, 5, 5]", "[0, 0, Infinity, 5]", "[0, 0, 1e400, 5]", '"a box"', "{}", "true",
    f"[0, 0, {'9' * 500}, 5]", "[[0, 0, 5, 5], [1, 1, 9, 9]]",
]  # fmt: skip


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_box_spoils_only_its_second(broken: str) -> None:
    track = f'{{"boxes": {{"1": [100, 100, 300, 300], "2": {broken}}}}}'
    assert accuracy("tracking", track) == 0.5
    assert accuracy("tracking", track, track) == 0, "gold is read strictly"
    more = f'{{"boxes": {{"1": [100, 100, 300, 300], "2": [0, 0, 50, 50], "3": {broken}}}}}'
    assert accuracy("tracking", more) == pytest.approx(2 / 3), "nor does it pad"
    timed = f'{{"time": [8.5, 10.5], "boxes": {{"9": [100, 100, 300, 300], "10": {broken}}}}}'
    assert accuracy("spatial-temporal grounding", timed) == 0.75


@pytest.mark.parametrize("key", ['"2.0": [0, 0, 50, 50], "2"', '"two"', '"2", "2": [0, 0, 50, 50], "3"', '""', '"NaN"'])
def test_a_broken_second_spoils_only_itself(key: str) -> None:
    key = key.replace('"2", "2"', '"2": [0, 0, 50, 50], "2"')
    track = f'{{"boxes": {{"1": [100, 100, 300, 300], {key}: [0, 0, 50, 50]}}}}'
    assert 0 < accuracy("tracking", track) <= 0.5


@pytest.mark.parametrize("broken", [
    *(f'{{"bbox_2d": {box}, "label": "cat"}}' for box in BROKEN),
    '{"bbox_2d": [500, 500, 900, 900], "label": 7}', '{"bbox_2d": [500, 500, 900, 900], "label": ["cat"]}',
    '{"bbox_2d": [500, 500, 900, 900], "label": "cat", "label": "cat"}',
    '{"bbox_2d": [500, 500, 900, 900], "label": "cat", "score": 0.9}', '{"label": "cat"}', "null",
    "[500, 500, 900, 900]",
])  # fmt: skip
def test_a_broken_box_is_a_wrong_one(broken: str) -> None:
    dog = '{"bbox_2d": [100, 100, 300, 300], "label": "dog"}'
    assert accuracy("detection", f"[{dog}, {broken}]") == 0.5
    assert accuracy("detection", f"[{dog}, {broken}]", f"[{dog}]") == 0.5
    assert accuracy("detection", f"[{broken}]") == accuracy("detection", f"[{broken}]", "[]") == 0
    assert accuracy("detection", f"[{dog}]", f"[{dog}, {broken}]") == 0, "gold is read strictly"


@pytest.mark.parametrize("broken", ["[1]", "[1, 1001]", "null", "[NaN, 1]", '{"point_2d": [1]}', '["1", "2"]', "{}"])
def test_a_broken_point_lies_outside(broken: str) -> None:
    assert accuracy("point grounding", f"[[250, 150], {broken}]") == 0.5
    assert accuracy("point grounding", f"[{broken}]") == 0
    assert accuracy("point grounding", f"[[100, 100], {broken}]", '{"points": [[100, 100], [200, 200]]}') == 0
    assert accuracy("point grounding", GOLD["point grounding"].replace("[300, 300]", broken)) == 0
