"""LengthCurriculum on a real trainer."""

import pytest
from toy import ToyModule, fit

from lit_g2rpo.callbacks import LengthCurriculum
from lit_g2rpo.callbacks.length_curriculum import around, interpolate
from lit_g2rpo.errors import UserError
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
    assert float(trainer.callback_metrics["length_band/low/b"]) == 20


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


def length(rollout):
    return 77.7 + rollout


@pytest.mark.parametrize("steps", [4, 5])
def test_a_resumed_run_scores_with_the_same_bands(tmp_path, steps):
    whole = ToyModule(length=length)
    fit(whole, tmp_path, [LengthCurriculum(rollouts=7)], rollouts=6)
    first = ToyModule(length=length)
    trainer = fit(first, tmp_path, [LengthCurriculum(rollouts=7)], max_steps=steps)
    trainer.save_checkpoint(tmp_path / "cut.ckpt")
    second = ToyModule(length=length)
    fit(second, tmp_path, [LengthCurriculum(rollouts=7)], rollouts=6, checkpoint=str(tmp_path / "cut.ckpt"))
    assert first.bands + second.bands == whole.bands


def test_arguments_are_checked():
    with pytest.raises(UserError, match="rollouts"):
        LengthCurriculum(rollouts=0)
