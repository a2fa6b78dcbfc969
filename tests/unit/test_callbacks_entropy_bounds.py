"""EntropyBounds on a real trainer."""

import math
import warnings

import lightning.pytorch as L
import pytest
import torch
from helpers.toy import MICROBATCHES, ToyModule, fit
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lit_g2rpo.callbacks import EntropyBounds
from lit_g2rpo.callbacks.entropy_bounds import band_distance
from lit_g2rpo.errors import UserError
from lit_g2rpo.objectives.objective import Objective
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


def test_the_entropy_that_the_objective_shapes_is_watched(tmp_path):
    module, gauges = ToyModule(entropy=lambda r: 0.4), Gauges()  # its sampled form is twice as large
    module.objective = Objective(entropy="sampled", entropy_coefficient=0.02)
    fit(module, tmp_path, [EntropyBounds(), gauges], 2)
    assert [distance for distance, _ in gauges.values] == pytest.approx([0.2, 0.2])


class Absent(ToyModule):
    """Task ``a`` has no prompt in rollouts 2 and 3; its metrics stay those of rollout 1."""

    def collect(self):
        experience = super().collect()
        if self.rollout_index in (2, 3):
            experience.table.task_ids = torch.ones(2, dtype=torch.long)
        return experience


def test_an_absent_task_counts_for_nothing_and_keeps_no_gauge(tmp_path):
    bounds = EntropyBounds(patience=2)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="entropy of task")
        fit(Absent(entropy=lambda r: 0.9 if r < 4 else 0.4), tmp_path, [bounds], 4)
    found = EventAccumulator(str(tmp_path / "toy/version_0")).Reload()
    for gauge in ("entropy_bounds/a", "entropy_bounds/outside/a"):
        assert [event.step for event in found.Scalars(gauge)] == [1, 4]
    assert bounds.state_dict()["observed"] == {"a": 2}
    assert bounds.state_dict()["outside"] == {"a": 1}


class Scales(L.Callback):
    """The scale that each rollout was made with."""

    def __init__(self):
        self.values = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch[1] == 0:
            self.values.append(pl_module.tasks["a"].entropy_scale)


def entropy_by_turns(rollout):
    return {1: 0.8, 2: 0.8, 3: 0.8, 4: 0.8, 5: 0.8, 6: 0.8, 7: 0.4, 8: 0.1, 9: 0.1, 10: 0.8}.get(rollout, 0.4)


def adapt():
    return EntropyBounds(patience=2, action="adapt", factor=2, limit=4)


@pytest.mark.filterwarnings("ignore:entropy of task")
def test_adapt_raises_the_coefficient_within_bounds_and_lowers_it_when_the_side_changes(tmp_path):
    module, scales = ToyModule(entropy=entropy_by_turns), Scales()
    trainer = fit(module, tmp_path, [adapt(), scales], 11)
    #                        up    up    limit    down    up    down
    assert scales.values == [1, 1, 2, 2, 4, 4, 4, 4, 2, 4, 2]
    assert float(trainer.callback_metrics["entropy_bounds/scale/a"]) == 2
    assert module.tasks["a"].entropy_scale == 1, "a later fit starts afresh"


@pytest.mark.filterwarnings("ignore:entropy of task")
@pytest.mark.parametrize("steps", [6, 7])
def test_a_resumed_run_goes_on_with_the_same_coefficients(tmp_path, steps):
    whole, first, second = Scales(), Scales(), Scales()
    fit(ToyModule(entropy=entropy_by_turns), tmp_path, [adapt(), whole], 11)
    trainer = fit(ToyModule(entropy=entropy_by_turns), tmp_path, [adapt(), first], max_steps=steps)
    trainer.save_checkpoint(tmp_path / "cut.ckpt")
    cut = str(tmp_path / "cut.ckpt")
    fit(ToyModule(entropy=entropy_by_turns), tmp_path, [adapt(), second], 11, checkpoint=cut)
    assert first.values + second.values == whole.values


def test_adapt_needs_a_coefficient(tmp_path):
    module = ToyModule()
    module.objective = Objective()
    with pytest.raises(UserError, match="entropy_coefficient is 0"):
        fit(module, tmp_path, [adapt()], 1)


class Scheduled(ToyModule):
    """The toy with a learning-rate schedule."""

    def __init__(self, schedule=None):
        super().__init__(entropy=lambda rollout: 0.9)
        self.schedule, self.rates = schedule, []

    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        if self.schedule is None:
            return optimizer
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": self.schedule(optimizer), "interval": "step"},
        }

    def on_before_optimizer_step(self, optimizer):
        self.rates.append(optimizer.param_groups[0]["lr"])


def halving(optimizer):
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5 ** (step / 4))


def cosine(optimizer):
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20)


def in_sequence(optimizer):
    parts = [torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=4), cosine(optimizer)]
    return torch.optim.lr_scheduler.SequentialLR(optimizer, parts, [4])


def one_cycle(optimizer):
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, 20, cycle_momentum=False)


@pytest.mark.parametrize("schedule", [None, halving, cosine, in_sequence, one_cycle])
def test_lower_lr_divides_the_learning_rate_of_any_schedule(tmp_path, schedule):
    plain, lowered = Scheduled(schedule), Scheduled(schedule)
    fit(plain, tmp_path, [], 8)
    bounds = EntropyBounds(patience=2, action="lower_lr", factor=4, limit=16)
    with pytest.warns(UserWarning, match="entropy of task 'a'"):
        fit(lowered, tmp_path, [bounds], 8)
    # acts after the first of the two optimizer steps of rollouts 2 and 4; rollouts 6 and 8 are past the limit
    divisors = [1] * 3 + [4] * 4 + [16] * 9
    expected = [rate / divisor for rate, divisor in zip(plain.rates, divisors, strict=True)]
    assert lowered.rates == pytest.approx(expected)


@pytest.mark.filterwarnings("ignore:entropy of task")
@pytest.mark.parametrize("schedule", [None, halving, cosine])
def test_a_resumed_run_keeps_the_lowered_learning_rate(tmp_path, schedule):
    def bounds():
        return EntropyBounds(patience=2, action="lower_lr", factor=4, limit=16)

    whole, first, second = Scheduled(schedule), Scheduled(schedule), Scheduled(schedule)
    fit(whole, tmp_path, [bounds()], 6)
    fit(first, tmp_path, [bounds()], max_steps=5).save_checkpoint(tmp_path / "cut.ckpt")
    fit(second, tmp_path, [bounds()], 6, checkpoint=str(tmp_path / "cut.ckpt"))
    assert len(whole.rates) == 6 * MICROBATCHES // 2
    assert first.rates + second.rates == whole.rates


def test_what_it_lowered_is_forgotten_with_the_learning_rate(tmp_path):
    class Renewed(ToyModule):
        learning_rate_renewed = True

    for module, left in ((ToyModule(), 16.0), (Renewed(), 1.0)):
        bounds = EntropyBounds(patience=99, action="lower_lr", limit=16)
        bounds.load_state_dict(bounds.state_dict() | {"lowered": 16.0})
        fit(module, tmp_path, [bounds], 1)
        assert bounds.state_dict()["lowered"] == left


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"patience": 0}, "patience is 0"),
        ({"action": "explode"}, "warn, adapt, lower_lr or stop"),
        ({"factor": 1}, "1 < factor <= limit"),
        ({"factor": 9}, "1 < factor <= limit"),
        ({"limit": math.inf}, "1 < factor <= limit"),
    ],
)
def test_arguments_are_checked(arguments, message):
    with pytest.raises(UserError, match=message):
        EntropyBounds(**arguments)
