"""The study: its design, what its objectives see, and that its page holds what its results say."""

import json

import pytest
import torch
from study import RESULTS, ROLLOUTS, SCREENING_ROLLOUTS, Run, best_rate, queue
from study_design import ARMS, CONTRASTS, MAIN, PHASES, RATES, SCREENING_SEEDS, SEEDS, SETTINGS, base_arm
from study_objectives import DISTURBANCES, GRPO, disturb
from study_report import PAGE, holm, judged, with_tables

from lit_g2rpo import objectives
from lit_g2rpo.mini.tasks import TASKS
from lit_g2rpo.objectives.fields import ScoredBatch


def batch(task: str, groups: int = 40) -> ScoredBatch:
    accuracy = torch.tensor([0.0, 0.5, 1.0, 1.0]).repeat(groups)
    ids = torch.arange(groups).repeat_interleave(4)
    return ScoredBatch(
        rewards=0.9 * accuracy + 0.1,
        components={"accuracy": accuracy, "format": torch.ones(4 * groups), "structure": torch.zeros(4 * groups)},
        group_ids=ids,
        task_ids=torch.full_like(ids, TASKS.index(task)),
        problem_type_ids=torch.zeros_like(ids),
        valid=torch.ones(4 * groups, dtype=torch.bool),
    )


@pytest.mark.parametrize(
    ("disturbance", "task", "expected"),
    [
        ("none", "chart_figure_qa", [0.1, 0.55, 1.0, 1.0]),
        ("scaled", "chart_figure_qa", [0.1, 45.1, 90.1, 90.1]),
        ("scaled", "ocr", [0.1, 0.55, 1.0, 1.0]),
        ("mixed", "general_vqa_science_stem", [0.1, 0.1045, 0.109, 0.109]),
        # 0.1 + 0.9 (1 / 0.52 - 1 / 1.02) and 0.1 + 0.9 (1 / 0.02 - 1 / 1.02)
        ("heavy", "ocr", [0.1, 0.9484162, 44.2176471, 44.2176471]),
    ],
)
def test_disturbed_totals_by_hand(disturbance, task, expected):
    found = disturb(batch(task), disturbance)
    torch.testing.assert_close(found.rewards[:4], torch.tensor(expected, dtype=torch.float64), atol=1e-6, rtol=0)


def test_about_a_tenth_of_the_groups_of_a_noisy_task_is_turned_over_whole():
    before = batch("math_reasoning", groups=400)
    after = disturb(before, "flipped")
    turned = (after.components["accuracy"] == 1 - before.components["accuracy"]).view(400, 4).all(1)
    same = (after.rewards.view(400, 4) - before.rewards.view(400, 4)).abs().amax(1) < 1e-6
    assert (turned ^ same).all()
    assert 20 <= turned.sum() <= 60
    assert torch.equal(disturb(before, "flipped").rewards, after.rewards)


def test_an_undisturbed_objective_is_the_project_s_own():
    plain = batch("ocr")
    torch.testing.assert_close(GRPO().advantages(plain), objectives.GRPO().advantages(plain))


def test_the_design_names_what_there_is():
    assert {phase.setting for phase in PHASES.values()} <= SETTINGS.keys()
    assert {setting.disturbance for setting in SETTINGS.values()} <= DISTURBANCES.keys()
    assert {arm for phase in PHASES.values() for arm in phase.arms} <= ARMS.keys()
    assert all(sum(setting.quotas.values()) == 18 for setting in SETTINGS.values() if setting.quotas)
    for setting, arm, other in CONTRASTS:
        phases = [phase for phase in PHASES.values() if phase.setting == setting and phase.seeds == SEEDS]
        assert any({arm, other} <= set(phase.arms) for phase in phases)
    assert base_arm("g2rpo+both,gated") == "g2rpo"


def test_an_arm_waits_for_its_screening_and_takes_the_best_rate():
    done = {}
    for rate, accuracy in zip(RATES, (0.6, 0.7, 0.7), strict=True):
        for seed in SCREENING_SEEDS:
            run = Run("default", "grpo", rate, seed, SCREENING_ROLLOUTS)
            assert best_rate(done, "default", "grpo") is None
            done[run.key] = {"validations": [{"accuracy": accuracy}]}
    assert best_rate(done, "default", "grpo") == RATES[1]
    waiting = list(queue(done))
    ready = {run.arm for run in waiting if run.rollouts == ROLLOUTS and run.setting == "default"}
    assert "grpo" in ready
    assert not ready & {"dr_grpo", "gdpo", "ema_grpo"}
    assert all(run.key not in done for run in waiting)


def test_holm_by_hand():
    # 0.05 / 3 and 0.05 / 2 are passed, 0.05 is not; a contrast that was not run counts in the number
    assert holm([0.06, 0.01, 0.02]) == [False, True, True]
    assert holm([0.02, None, None]) == [False, False, False]


def test_screening_runs_are_not_judged():
    results = json.loads(RESULTS.read_text())
    for arm in MAIN:
        assert set(judged(results, "default", arm)) <= set(SEEDS)


def test_the_page_holds_what_the_results_say():
    page = PAGE.read_text()
    assert with_tables(page, json.loads(RESULTS.read_text())) == page
