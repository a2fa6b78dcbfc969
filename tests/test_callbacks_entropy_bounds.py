"""EntropyBounds on a real trainer."""

import warnings

import lightning.pytorch as L
import pytest
from toy import ToyModule, fit

from lit_g2rpo.callbacks import EntropyBounds
from lit_g2rpo.callbacks.entropy_bounds import band_distance
from lit_g2rpo.errors import UserError
from lit_g2rpo.objectives.shaping import EntropyBand


class Gauges(L.Callback):
    def __init__(self):
        self.values = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if batch[1] == 3:
            metrics = trainer.callback_metrics
            self.values.append((float(metrics["entropy_bounds/a"]), float(metrics["entropy_bounds/outside/a"])))
            assert "entropy_bounds/b" not in metrics


def run(tmp_path, bounds, entropy, rollouts=6, **options):
    gauges = Gauges()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer = fit(ToyModule(entropy=entropy), tmp_path, [bounds, gauges], rollouts, **options)
    return trainer, gauges.values, [str(w.message) for w in caught if "entropy of task" in str(w.message)]


@pytest.mark.parametrize(("entropy", "distance"), [(0.4, 0), (0.2, 0), (0.6, 0), (0.9, 0.3), (0.05, -0.15)])
def test_distance_is_signed(entropy, distance):
    assert band_distance(entropy, EntropyBand(0.2, 0.6)) == pytest.approx(distance)


def test_gauges_follow_each_rollout(tmp_path):
    _, values, warned = run(tmp_path, EntropyBounds(patience=2), lambda r: {1: 0.4, 2: 0.9, 3: 0.5, 4: 0.1}[r], 4)
    assert [v[0] for v in values] == pytest.approx([0, 0.3, 0, -0.1])
    assert [v[1] for v in values] == pytest.approx([0, 1 / 2, 1 / 3, 2 / 4])
    assert not warned


def test_warns_once_per_excursion_with_a_line_to_act_on(tmp_path):
    trainer, _, warned = run(tmp_path, EntropyBounds(patience=2), lambda r: 0.4 if r == 4 else 0.8, 8)
    assert len(warned) == 2
    assert "'a' has been above its band [0.2, 0.6] nats for 2 rollouts (now 0.800)" in warned[0]
    assert "entropy_coefficient" in warned[0]
    assert trainer.global_step == 16


def test_stop_ends_the_training(tmp_path):
    trainer, _, warned = run(tmp_path, EntropyBounds(patience=3, action="stop"), lambda r: 0.01)
    assert len(warned) == 1
    assert "below" in warned[0]
    assert trainer.global_step == 5  # first of the two optimizer steps of rollout 3


def test_counts_survive_a_checkpoint(tmp_path):
    first = EntropyBounds(patience=4)
    trainer, _, warned = run(tmp_path, first, lambda r: 0.8, 3)
    assert not warned
    trainer.save_checkpoint(tmp_path / "cut.ckpt")
    second = EntropyBounds(patience=4)
    _, values, warned = run(tmp_path, second, lambda r: 0.8, 5, checkpoint=str(tmp_path / "cut.ckpt"))
    assert len(warned) == 1
    assert len(values) == 2
    assert second.state_dict()["observed"] == {"a": 5}


def test_arguments_are_checked():
    with pytest.raises(UserError, match="patience"):
        EntropyBounds(patience=0)
    with pytest.raises(UserError, match="action"):
        EntropyBounds(action="explode")
