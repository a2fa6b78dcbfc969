"""BandPlots on a real trainer, and what its figures hold."""

import io
import math

import numpy as np
import pytest
from helpers.toy import ToyModule, fit
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lit_g2rpo.callbacks import BandPlots, LengthCurriculum
from lit_g2rpo.callbacks.plots import band_plots as code
from lit_g2rpo.callbacks.plots.figures import panels, pixels
from lit_g2rpo.errors import UserError
from lit_g2rpo.objectives.objective import Objective


def images(tmp_path, tag):
    events = EventAccumulator(str(tmp_path / "toy/version_0"), size_guidance={"images": 0}).Reload()
    return {event.step: Image.open(io.BytesIO(event.encoded_image_string)) for event in events.Images(tag)}


@pytest.mark.parametrize("first", [True, False])
def test_the_band_is_the_one_the_rollout_was_scored_with(tmp_path, first):
    plots, curriculum = BandPlots(), LengthCurriculum(rollouts=4)
    module = ToyModule(length=lambda r: 5.0)
    fit(module, tmp_path, [plots, curriculum] if first else [curriculum, plots], rollouts=4)
    curve = plots.state_dict()["history"]["a"]
    assert [point[0] for point in curve] == [1, 2, 3, 4]
    scored = [band[0] for band in module.bands]
    assert [point[2:6] for point in curve] == [[b.minimum, b.low, b.high, b.maximum] for b in scored]
    assert scored[0] != scored[1]


def test_figures_come_every_few_rollouts_and_at_the_end(tmp_path):
    fit(ToyModule(), tmp_path, [BandPlots(every_rollouts=2)], rollouts=5)
    found = images(tmp_path, "bands/length")
    # after rollouts 2 and 4, and after the last
    assert list(found) == [2, 4, 5] == list(images(tmp_path, "bands/entropy"))
    width, height = found[2].size
    assert width > 500
    assert height > 200


def test_a_resumed_run_continues_the_curves(tmp_path):
    trainer = fit(ToyModule(length=float), tmp_path, [BandPlots()], 2)
    trainer.save_checkpoint(tmp_path / "cut.ckpt")
    plots = BandPlots()
    fit(ToyModule(length=float), tmp_path, [plots], 4, checkpoint=str(tmp_path / "cut.ckpt"))
    assert [point[:2] for point in plots.state_dict()["history"]["b"]] == [[1, 1], [2, 2], [3, 3], [4, 4]]


def test_the_entropy_that_the_objective_shapes_is_drawn(tmp_path):
    module, plots = ToyModule(entropy=lambda r: 0.4), BandPlots()
    module.objective = Objective(entropy="sampled", entropy_coefficient=0.02)
    fit(module, tmp_path, [plots], 1)
    points = {name: curve[0] for name, curve in plots.state_dict()["history"].items()}
    assert points["a"][6:] == pytest.approx([0.8, 0.2, 0.6])
    assert points["b"][6] == 18
    assert all(math.isnan(bound) for bound in points["b"][7:])


def test_long_curves_are_thinned_and_keep_their_newest_point(tmp_path, monkeypatch):
    monkeypatch.setattr(code, "POINTS", 3)
    plots = BandPlots()
    fit(ToyModule(), tmp_path, [plots], rollouts=6)
    assert [point[0] for point in plots.state_dict()["history"]["a"]] == [4, 6]


def test_panels_shade_the_band_and_mark_what_is_outside():
    curves = {"a": [[1, 15, 10, 20, 40, 60, 0.9, 0.2, 0.6], [2, 30, 12, 22, 40, 60, 0.4, 0.2, 0.6]]}
    axes = code.length_figure(curves).axes[0]
    assert axes.get_title() == "a"
    line, red = axes.lines
    np.testing.assert_array_equal(line.get_xydata(), [[1, 15], [2, 30]])
    np.testing.assert_array_equal(red.get_xydata(), [[1, 15]])
    ramps, plateau = (set(map(tuple, shade.get_paths()[0].vertices.tolist())) for shade in axes.collections)
    assert {(1, 10), (2, 12), (1, 60), (2, 60)} <= ramps
    assert {(1, 20), (2, 22), (1, 40), (2, 40)} <= plateau
    axes = code.entropy_figure(curves).axes[0]
    np.testing.assert_array_equal(axes.lines[0].get_xydata(), [[1, 0.9], [2, 0.4]])
    np.testing.assert_array_equal(axes.lines[1].get_xydata(), [[1, 0.9]])
    assert axes.get_ylim()[1] > 0.9


def test_a_figure_without_a_band_has_no_shade_and_no_red():
    nan = math.nan
    figure = code.length_figure({"a": [[1, 15, nan, nan, nan, nan, nan, nan, nan]]})
    assert len(figure.axes[0].lines) == 1
    assert pixels(figure).std() > 0


def test_pixels_are_an_image():
    figure, axes_of = panels(["x", "y", "z", "u"], "heading", "note")
    assert list(axes_of) == ["x", "y", "z", "u"]
    drawn = pixels(figure)
    assert drawn.dtype == np.uint8
    assert drawn.shape[2] == 3


def test_the_interval_is_checked():
    with pytest.raises(UserError, match="every_rollouts is 0; it must be at least 1 rollout"):
        BandPlots(every_rollouts=0)
