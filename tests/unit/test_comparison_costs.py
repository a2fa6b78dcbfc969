"""What runs cost, altogether and up to a target."""

from dataclasses import replace
from pathlib import Path

import pytest
from helpers.synthetic_runs import arm, points

from lit_g2rpo.comparison.compare import Options, compare, to_target
from lit_g2rpo.comparison.costs import cost, cost_to
from lit_g2rpo.comparison.runs import curves_of


def test_costs_are_tokens_and_seconds_of_training() -> None:
    curves = curves_of(points(0, 50, gain=0.3))
    total = cost(curves)
    # 0.5 s of sampling at 2000 tokens a second, and 1 s in all, each rollout
    assert (total.rollouts, total.tokens, total.seconds) == pytest.approx((50, 50 * 1000.0, 50 * 1.0))
    start = curves.metrics["val/accuracy"][0]
    reached = cost_to(curves, "val/accuracy", start + 0.04)
    assert reached is not None
    assert (reached.rollouts, reached.tokens, reached.seconds) == pytest.approx((25, 25_000.0, 25.0))
    assert cost_to(curves, "val/accuracy", 2.0) is None
    assert cost_to(curves, "no/such", 0.1) is None


def test_a_logged_rollout_stands_for_those_that_are_not() -> None:
    every_fifth = [point for point in points(0, 50) if point["rollout"] % 5 == 0]
    assert cost(curves_of(every_fifth)).tokens == pytest.approx(50_000.0)
    went_on = [point for point in points(0, 50) if point["rollout"] > 20]
    assert cost(curves_of(went_on)).tokens == pytest.approx(30_000.0)


def test_what_was_not_logged_costs_nothing_that_is_known() -> None:
    total = cost(curves_of([{"rollout": 3, "time": 1.0, "val/accuracy": 0.5}]))
    assert (total.rollouts, total.tokens, total.seconds) == (3, None, None)


def test_a_mean_to_the_target_needs_every_run(tmp_path: Path) -> None:
    folders = arm(tmp_path, "a", range(2), gain=0.3) + arm(tmp_path, "b", range(2), gain=0.0, scope="group")
    found = compare(folders, Options(target=0.55))
    reached, spent = to_target(found.costs[0])
    assert reached == 2
    assert spent["tokens"].mean == pytest.approx(1000 * spent["rollouts"].mean)
    assert to_target(found.costs[1]) == (0, {})
    one = [found.costs[0][0], replace(found.costs[0][1], to_target=None)]
    assert to_target(one) == (1, {})
