"""AdvantageTopology: statistics by hand, and what lands in TensorBoard."""

import io
import math
from pathlib import Path

import pytest
import torch
from helpers.build import data, module, trainer
from helpers.toy import ToyModule, fit
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lit_g2rpo.callbacks import AdvantageTopology
from lit_g2rpo.callbacks.plots.advantage_figures import pull_figure, quantile_figure
from lit_g2rpo.callbacks.plots.advantage_stats import advantage_stats, flipped_signs, tie_stats
from lit_g2rpo.callbacks.plots.advantage_topology import pull_shares, topology_sets
from lit_g2rpo.errors import UserError
from lit_g2rpo.experience import RolloutTable
from lit_g2rpo.loggers import TensorBoard
from lit_g2rpo.objectives import G2RPO
from lit_g2rpo.objectives.advantages import gaussian
from lit_g2rpo.rewards import PROBLEM_TYPES


def table(rewards, valid=None, scope="group_then_task", tasks=None, types=None):
    rewards = torch.tensor(rewards, dtype=torch.float64)
    prompts = len(rewards)
    valid = torch.ones_like(rewards, dtype=torch.bool) if valid is None else torch.tensor(valid)
    tasks = torch.zeros(prompts, dtype=torch.long) if tasks is None else torch.tensor(tasks)
    groups = torch.arange(prompts)[:, None].expand(rewards.shape)
    advantages = gaussian(
        rewards.flatten(), groups.flatten(), tasks[:, None].expand(rewards.shape).flatten(), scope=scope,
        valid=valid.flatten(),
    )  # fmt: skip
    return RolloutTable(
        rewards=rewards,
        lengths=torch.ones_like(rewards, dtype=torch.long),
        valid=valid,
        entropy_counts=torch.ones_like(valid),
        advantages=advantages.view(rewards.shape),
        task_ids=tasks,
        problem_type_ids=torch.zeros(prompts, dtype=torch.long) if types is None else torch.tensor(types),
        entropy_direction=torch.zeros(2),
    )


def test_ties_by_hand():
    rewards = [[0, 0, 1, 2], [5, 5, 5, 5], [0, 1, 2, 3], [0.3, 0.1 + 0.2, 1, 1]]
    found = tie_stats(torch.tensor(rewards, dtype=torch.float64))
    assert found == {"tie_rate": (2 + 4 + 0 + 4) / 16, "tied_groups": 1 / 4, "levels": (3 + 1 + 4 + 2) / 4}


def test_groups_of_one_tie_with_nothing():
    assert tie_stats(torch.tensor([[0.5], [0.5]])) == {"tie_rate": 0, "tied_groups": 1, "levels": 1}


def test_easy_prompts_flip_the_signs_of_right_answers():
    """Right answers of prompts with 7 of 8 right are ranks 13 to 26 of the task's 48: below its middle."""
    rewards = [[0.0] * (8 - right) + [1.0] * right for right in (7, 7, 6, 6, 5, 5)]
    mixed = table(rewards)
    first = table(rewards, scope="group").advantages
    by_hand = mixed.rewards.bool() & (torch.arange(6) < 2)[:, None]
    assert (first[by_hand] > 0).all()
    assert (mixed.advantages[by_hand] < 0).all()
    assert torch.equal(flipped_signs(mixed), by_hand)
    stats = advantage_stats(mixed, torch.ones(6, dtype=torch.bool), flipped_signs(mixed))
    assert stats["sign_flips"] == 14 / 48
    for scope in ("group", "group_unit_rms"):
        assert not flipped_signs(table(rewards, scope=scope)).any()


def test_dropped_groups_count_in_the_ties_alone():
    found = table([[0, 1, 2, 3], [7, 7, 7, 7]], valid=[[True] * 4, [False] * 4], scope="group")
    stats = advantage_stats(found, torch.tensor([True, True]), None)
    # quantiles of 1/8 and 3/8, the others their negatives
    far, near = 1.1503493803760083, 0.31863936396437514
    assert stats["mean_abs"] == pytest.approx((far + near) / 2)
    assert stats["variance"] == pytest.approx((far**2 + near**2) / 2)
    assert stats["tied_groups"] == 0.5
    assert "sign_flips" not in stats
    dropped = advantage_stats(found, torch.tensor([False, True]), flipped_signs(found))
    assert dropped == {"tie_rate": 1, "tied_groups": 1, "levels": 1}


def test_sets_are_the_tasks_and_problem_types_that_are_there():
    grounding = PROBLEM_TYPES.index("spatial grounding")
    sets = topology_sets(table([[0, 1]] * 3, tasks=[1, 0, 1], types=[0, grounding, 0]), ["a", "b", "c"])
    found = {name: prompts.tolist() for name, prompts in sets.items()}
    first = PROBLEM_TYPES[0].replace(" ", "_")
    assert found == {
        "a": [False, True, False],
        "b": [True, False, True],
        f"type/{first}": [True, False, True],
        "type/spatial_grounding": [False, True, False],
    }


def test_shares_average_over_the_measurements_that_have_the_task():
    gradients, tokens = pull_shares([{"a": [2.0, 10.0], "b": [1.0, 30.0]}, {"a": [4.0, 20.0]}])
    assert gradients == pytest.approx({"a": 3 / 4, "b": 1 / 4})
    assert tokens == pytest.approx({"a": 0.5, "b": 0.5})
    assert pull_shares([{}]) == ({}, {})


def test_quantiles_lie_on_the_line_where_nothing_ties():
    untied = table([list(range(9))], scope="task").advantages.flatten()
    figure = quantile_figure({"untied": untied, "binary": torch.tensor([-0.767] * 4 + [0.767] * 4)})
    first, second = (axes.lines[1].get_xydata() for axes in figure.axes)
    torch.testing.assert_close(torch.from_numpy(first[:, 0]), torch.from_numpy(first[:, 1]))
    assert len(set(second[:, 1])) == 2
    # Hazen's plotting positions: (i - 0.5) / 8
    assert second[0, 0] == pytest.approx(-1.5341205443525463)


def test_the_pull_figure_has_a_bar_per_task_and_the_line_to_reach():
    figure = pull_figure({"a": 0.8, "b": 0.4}, {"a": 0.7, "b": 0.2, "c": 0.1}, {"a": 0.5, "b": 0.25, "c": 0.25})
    size, share = figure.axes
    labels = [label.get_text() for label in size.get_yticklabels()]
    assert labels == ["c", "b", "a"]
    assert [bar.get_width() for bar in size.patches] == [0, 0.4, 0.8]
    assert size.lines[0].get_xdata()[0] == pytest.approx(math.sqrt(2 / math.pi))
    assert [bar.get_width() for bar in share.patches] == [0.1, 0.2, 0.7]
    assert share.lines[0].get_xdata()[0] == pytest.approx(1 / 3)
    assert len(pull_figure({"a": 0.8}, {}, {}).axes) == 1


def test_every_rollout_has_its_scalars_and_some_have_figures(tmp_path):
    fit(ToyModule(), tmp_path, [AdvantageTopology(every_rollouts=2, histograms_every=3, gradients_every=0)], rollouts=4)
    found = EventAccumulator(str(tmp_path / "toy/version_0"), size_guidance={"images": 0, "histograms": 0}).Reload()
    tags = found.Tags()
    # the toy's advantages are -1, -1/3 | 1/3, 1, of which the last is dropped
    assert [(e.step, e.value) for e in found.Scalars("topology/mean_abs/a")] == [
        (step, pytest.approx(2 / 3)) for step in (1, 2, 3, 4)
    ]
    assert found.Scalars("topology/variance/b")[0].value == pytest.approx(0)
    assert found.Scalars("topology/tie_rate/a")[0].value == 0
    name = PROBLEM_TYPES[0].replace(" ", "_")
    assert found.Scalars(f"topology/mean_abs/type/{name}")[0].value == pytest.approx(5 / 9)
    assert not any("sign_flips" in tag or "gradient" in tag for tag in tags["scalars"])
    for what in ("rewards", "advantages"):
        for which in ("a", "b", f"type/{name}"):
            steps = [event.step for event in found.Histograms(f"topology/{what}/{which}")]
            assert steps == [1, 4]
    for figure in ("quantiles", "pull"):
        events = found.Images(f"topology/{figure}")
        assert [event.step for event in events] == [1, 3]
        assert Image.open(io.BytesIO(events[0].encoded_image_string)).size[0] > 500


@pytest.mark.usefixtures("varied_rewards")
def test_gradients_are_measured_in_turn_and_change_nothing(random_folder: str, tmp_path: Path) -> None:
    weights = []
    for callbacks in ([], [AdvantageTopology(gradients_every=2)]):
        run = module(random_folder, G2RPO(filtering="off"))
        logger = TensorBoard(str(tmp_path), name="run", version=len(weights))
        fitted = trainer(tmp_path, 6, callbacks=callbacks, logger=logger)
        fitted.fit(run, data())
        weights.append(run.policy.state_dict())
    assert all(torch.equal(weight, weights[1][name]) for name, weight in weights[0].items())
    found = EventAccumulator(str(tmp_path / "run/version_1")).Reload()
    seconds = found.Scalars("topology/gradient_seconds")
    assert [event.step for event in seconds] == [1, 3]
    assert all(event.value > 0 for event in seconds)
    shares = [tag for tag in found.Tags()["scalars"] if tag.startswith("topology/gradient_share/")]
    first = [e.value for tag in shares for e in found.Scalars(tag) if e.step == 1]
    assert len(first) > 1
    assert sum(first) == pytest.approx(1, abs=1e-5)
    assert "topology/sign_flips/ocr" in found.Tags()["scalars"]
    # the measurements are in the checkpoint
    topology = AdvantageTopology()
    fitted.save_checkpoint(tmp_path / "cut.ckpt")
    saved = torch.load(tmp_path / "cut.ckpt", weights_only=True)["callbacks"]["AdvantageTopology"]
    topology.load_state_dict(saved)
    assert len(saved["pulls"]) == 2
    assert topology.state_dict() == saved


@pytest.mark.usefixtures("varied_rewards")
def test_a_frozen_layer_is_said_once(random_folder: str, tmp_path: Path) -> None:
    run = module(random_folder, G2RPO(filtering="off"), freeze=["language"])
    logger = TensorBoard(str(tmp_path), name="run", version=0)
    with pytest.warns(UserWarning, match="AdvantageTopology measures no gradient: the last decoder layer is frozen"):
        trainer(tmp_path, 2, callbacks=[AdvantageTopology()], logger=logger).fit(run, data())


@pytest.mark.parametrize("options", [{"every_rollouts": 0}, {"histograms_every": 0}, {"gradients_every": -1}])
def test_intervals_are_checked(options):
    with pytest.raises(UserError, match=next(iter(options))):
        AdvantageTopology(**options)
