"""LengthCurriculum on a real trainer."""

import pytest
import torch
from helpers.toy import ToyModule, fit

from lit_g2rpo.callbacks import LengthCurriculum
from lit_g2rpo.callbacks.length_curriculum import around, covered, interpolate
from lit_g2rpo.errors import UserError
from lit_g2rpo.objectives.relative_bands import length_band
from lit_g2rpo.objectives.shaping import LengthBand

FINAL = LengthBand(10, 20, 40, 60)


@pytest.mark.parametrize(
    ("length", "band"),
    [
        (30, FINAL),
        (100, LengthBand(10, 20, 100, 120)),
        (15, LengthBand(5, 15, 40, 60)),
        (4, LengthBand(0, 4, 40, 60)),
    ],
)
def test_first_band_holds_the_measured_length(length, band):
    assert around(FINAL, length) == band


def test_the_way_is_linear_and_ends_exactly():
    start = around(FINAL, 100.3)
    assert interpolate(start, FINAL, 0) == start
    assert interpolate(start, FINAL, 0.5).high == pytest.approx((100.3 + 40) / 2)
    assert interpolate(start, FINAL, 1) is FINAL
    assert interpolate(start, FINAL, 7) is FINAL


def test_bands_move_before_the_next_rollout(tmp_path):
    module = ToyModule(length=lambda rollout: 100.0 if rollout == 1 else 50.0)
    trainer = fit(module, tmp_path, [LengthCurriculum(rollouts=4)], rollouts=7)
    # what each rollout was scored with: first the configured band, then the widened one that narrows
    assert [bands[0].high for bands in module.bands] == pytest.approx([40, 100, 85, 70, 55, 40, 40])
    assert [bands[0].maximum for bands in module.bands] == pytest.approx([60, 120, 105, 90, 75, 60, 60])
    assert module.bands[2][0] == module.bands[2][1]
    assert float(trainer.callback_metrics["length_band/high/a"]) == 40
    sides = ("minimum", "low", "high", "maximum")
    assert [float(trainer.callback_metrics[f"length_band/{side}/b"]) for side in sides] == [10, 20, 40, 60]


def test_a_task_without_a_band_is_left_alone(tmp_path):
    module = ToyModule(length=lambda rollout: 100.0)
    module.tasks["b"].length = None
    trainer = fit(module, tmp_path, [LengthCurriculum(rollouts=4)], rollouts=3)
    assert all(bands[1] is None for bands in module.bands)
    assert "length_band/high/b" not in trainer.callback_metrics


def test_configured_bands_are_back_after_the_run(tmp_path):
    module = ToyModule(length=lambda rollout: 100.0)
    fit(module, tmp_path, [LengthCurriculum(rollouts=10)], rollouts=3)
    assert module.tasks["a"].length == FINAL


@pytest.mark.parametrize(
    ("start", "length", "share"),
    [(100, 100, 0), (100, 85, 0.25), (100, 40, 1), (100, 3, 1), (100, 130, 0), (5, 14, 0.6), (30, 99, 1), (40, 99, 1)],
)
def test_the_way_covered(start, length, share):
    assert covered(FINAL, start, length) == pytest.approx(share)


def test_a_band_follows_the_running_mean_and_never_goes_back(tmp_path):
    module = ToyModule(length=lambda rollout: {1: 100.0, 2: 100.0, 3: 60.0, 4: 120.0}.get(rollout, 20.0))
    fit(module, tmp_path, [LengthCurriculum(target="running_mean")], rollouts=12)
    # running mean by hand: 100, 100, 0.8 * 100 + 0.2 * 60 = 92, 0.8 * 92 + 0.2 * 120 = 97.6, then towards 20
    running = [100, 100, 92, 92, 0.8 * 97.6 + 4]
    high = [bands[0].high for bands in module.bands]
    assert high[:6] == pytest.approx([40, *running])
    assert high == [high[0], *sorted(high[1:], reverse=True)]
    # 20 + 77.6 * 0.8 ** n is at most 40 from n = 7, the length of rollout 11
    assert [value == 40 for value in high] == [True] + [False] * 10 + [True]


RATIOS = length_band(["0.25x", "1.2x", "2.5x", 400])


@pytest.mark.parametrize("rollouts", [1, 4])
def test_a_band_of_multiples_follows_from_the_measured_start(tmp_path, rollouts):
    module = ToyModule(length=lambda rollout: 100.0 if rollout == 1 else 50.0)
    module.tasks["b"].length, module.tasks["b"].relative_length = None, RATIOS
    trainer = fit(module, tmp_path, [LengthCurriculum(rollouts)], rollouts=6)
    first, start = module.bands[0][1], module.bands[1][1]
    assert first is None, "nothing is measured when the first rollout is scored"
    assert start == LengthBand(5, 100, 250, 400)
    lows = {1: [100] + [120] * 4, 4: [100, 105, 110, 115, 120]}[rollouts]
    assert [bands[1].low for bands in module.bands[1:]] == pytest.approx(lows)
    assert module.bands[-1][1] == LengthBand(25, 120, 250, 400)
    assert float(trainer.callback_metrics["length_band/maximum/b"]) == 400
    assert module.tasks["b"].length is None, "a later fit measures anew"


def test_a_band_of_the_reference_answer_is_left_alone(tmp_path):
    module = ToyModule(length=lambda rollout: 100.0)
    module.tasks["b"].length, module.tasks["b"].relative_length = None, length_band(["0ref", "1ref", "2ref", "3ref"])
    trainer = fit(module, tmp_path, [LengthCurriculum(4)], rollouts=3)
    assert all(bands[1] is None for bands in module.bands)
    assert "length_band/high/b" not in trainer.callback_metrics


class Absent(ToyModule):
    """Task ``b`` has no prompt in the first two rollouts, although metrics of its name are there."""

    def collect(self):
        experience = super().collect()
        if self.rollout_index < 3:
            experience.table.task_ids = torch.zeros(2, dtype=torch.long)
        return experience


def test_a_task_is_measured_in_the_first_rollout_that_has_it(tmp_path):
    module = Absent(length=lambda rollout: 200.0 if rollout < 3 else 80.0)
    fit(module, tmp_path, [LengthCurriculum(rollouts=100)], rollouts=5)
    assert [bands[1].high for bands in module.bands[:4]] == [40, 40, 40, 80]


@pytest.mark.parametrize("target", ["schedule", "running_mean"])
@pytest.mark.parametrize("steps", [4, 5])
def test_a_resumed_run_scores_with_the_same_bands(tmp_path, steps, target):
    def toy():
        module = ToyModule(length=lambda rollout: 77.7 - 2 * rollout)
        module.tasks["b"].length, module.tasks["b"].relative_length = None, length_band(["0x", "0x", "0.5x", "2x"])
        return module

    whole, first, second = toy(), toy(), toy()
    fit(whole, tmp_path, [LengthCurriculum(7, target)], rollouts=6)
    trainer = fit(first, tmp_path, [LengthCurriculum(7, target)], max_steps=steps)
    trainer.save_checkpoint(tmp_path / "cut.ckpt")
    fit(second, tmp_path, [LengthCurriculum(7, target)], rollouts=6, checkpoint=str(tmp_path / "cut.ckpt"))
    assert first.bands + second.bands == whole.bands
    assert len(set(whole.bands)) == 6


def test_arguments_are_checked():
    with pytest.raises(UserError, match="rollouts"):
        LengthCurriculum(rollouts=0)
    with pytest.raises(UserError, match="schedule or running_mean"):
        LengthCurriculum(target="mean")
