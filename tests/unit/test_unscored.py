"""A completion whose reward failed leaves its group: the others learn as if it had not been sampled."""

import pytest
import torch

from lit_g2rpo.objectives import G2RPO, GRPO, RLOO, Supervised
from lit_g2rpo.objectives.objective import Objective
from lit_g2rpo.tasks import Task
from lit_g2rpo.training.metrics import rollout_metrics
from lit_g2rpo.training.table import COLUMNS, build_table, shaped_columns, trained_rows, usable_groups

TASKS = {"a": Task("a")}


def values(accuracy: list[list[float]], scored: list[list[int]]) -> torch.Tensor:
    right, known = torch.tensor(accuracy, dtype=torch.float64), torch.tensor(scored, dtype=torch.float64)
    column = {name: torch.zeros_like(right) for name in COLUMNS}
    column |= {"total": 0.9 * right + 0.1, "accuracy": right, "format": right**0, "length": right + 5, "scored": known}
    return torch.stack([column[name] for name in COLUMNS], -1)


def advantages(objective: Objective, rows: torch.Tensor) -> torch.Tensor:
    column = shaped_columns(rows, objective, TASKS, 8)
    return build_table(column, usable_groups(column, objective), objective, TASKS).advantages


@pytest.mark.parametrize("filtering", ["off", "drop"])
@pytest.mark.parametrize("kind", [G2RPO, GRPO, RLOO])
def test_the_others_have_the_advantages_of_a_smaller_group(kind: type[Objective], filtering: str) -> None:
    objective = kind(filtering=filtering)
    groups = [[1.0, 0.0, 0.5, 0.0], [0.25, 1.0, 0.0, 0.0]]
    found = advantages(objective, values(groups, [[1, 1, 1, 0], [0, 1, 1, 1]]))
    smaller = advantages(objective, values([[1.0, 0.0, 0.5], [1.0, 0.0, 0.0]], [[1] * 3] * 2))
    assert found[0, 3] == found[1, 0] == 0
    assert found[0, :3].tolist() == smaller[0].tolist()
    assert found[1, 1:].tolist() == smaller[1].tolist()
    assert smaller.any()


def test_it_counts_for_nothing() -> None:
    objective = GRPO(filtering="off")
    rows = values([[1.0, 0.0, 0.0]], [[1, 1, 0]])
    column = shaped_columns(rows, objective, TASKS, 8)
    usable = usable_groups(column, objective)
    table = build_table(column, usable, objective, TASKS)
    assert table.valid.tolist() == [[True, True, False]], "not in the normalizer of the loss either"
    assert trained_rows(table, objective).tolist() == [[True, True, False]]
    metrics = rollout_metrics(table, usable, column, ["a"])
    assert metrics["rollout/accuracy"] == metrics["rollout/accuracy/a"] == 0.5
    assert metrics["rollout/unscored"] == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("accuracy", "scored", "kept"),
    [
        ([1.0, 1.0, 0.0], [1, 1, 0], False), ([0.0, 0.0, 1.0], [1, 1, 0], False), ([1.0, 0.0, 0.0], [1, 0, 0], False),
        ([1.0, 0.0, 0.0], [0, 0, 0], False), ([1.0, 0.0, 0.0], [1, 1, 0], True),
    ],
)  # fmt: skip
def test_a_group_is_kept_for_what_is_left_of_it(accuracy: list[float], scored: list[int], kept: bool) -> None:
    objective = GRPO(filtering="drop")
    column = shaped_columns(values([accuracy, [1.0, 0.0, 0.0]], [scored, [1] * 3]), objective, TASKS, 8)
    assert usable_groups(column, objective).tolist() == [kept, True]


def test_nothing_is_said_of_a_rollout_without_a_score() -> None:
    objective = GRPO(filtering="off")
    column = shaped_columns(values([[1.0, 0.0]], [[0, 0]]), objective, TASKS, 8)
    usable = usable_groups(column, objective)
    table = build_table(column, usable, objective, TASKS)
    metrics = rollout_metrics(table, usable, column, ["a"])
    assert "rollout/reward" not in metrics
    assert metrics["rollout/unscored"] == 1.0
    assert not table.advantages.any()


def test_imitation_needs_no_score() -> None:
    objective = Supervised()
    column = shaped_columns(values([[1.0, 0.0]], [[0, 1]]), objective, TASKS, 8)
    table = build_table(column, usable_groups(column, objective), objective, TASKS)
    assert table.valid.all()
