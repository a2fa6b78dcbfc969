"""Alarms on a real trainer."""

import warnings

import pytest
import torch
from helpers.toy import ToyModule, fit
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lit_g2rpo.callbacks import Alarms
from lit_g2rpo.callbacks.alarms import failed, gap_sums, misplaced
from lit_g2rpo.errors import UserError
from lit_g2rpo.experience import Completion
from lit_g2rpo.rewards import RewardResult


class Sick(ToyModule):
    """A toy whose rollouts have what the test says: truncated completions (of 4), and a log-probability gap."""

    def __init__(self, truncated=lambda rollout: 0, gap=None):
        super().__init__()
        self.truncated, self.gap = truncated, gap
        self.policy.forbidden_token_ids, self.policy.pad_token_id = [7], 9

    def collect(self):
        experience = super().collect()
        for row, completion in enumerate(experience.completions):
            completion.truncated = row < self.truncated(self.rollout_index)
        if self.gap is not None:
            experience.old_logprobs = [c.logprobs + self.gap for c in experience.completions]
        return experience

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.log("train/logprob_gap", 0.01)
        return loss


def run(tmp_path, module, alarms, rollouts=6, **options):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer = fit(module, tmp_path, [alarms], rollouts, **options)
    return trainer, [str(w.message) for w in caught if str(w.message).startswith("alarm ")]


def curve(tmp_path, tag):
    events = EventAccumulator(str(tmp_path / "toy/version_0"), size_guidance={"scalars": 0}).Reload()
    return [(event.step, round(event.value, 6)) for event in events.Scalars(tag)]


def completion(tokens):
    tokens = torch.tensor(tokens)
    return Completion(tokens, -torch.ones(len(tokens)), torch.ones(len(tokens)), "", False)


def reward(error):
    return RewardResult(0.0, 0.0, 0.0, 0.0, {}, error, 0.0)


def test_an_alarm_goes_on_after_patience_and_says_so_once_per_episode(tmp_path):
    alarms = Alarms(truncated=0.5, patience=2)
    _, warned = run(tmp_path, Sick(lambda r: 2 if r in (1, 5) else 3), alarms, 8)
    assert curve(tmp_path, "alarm/value/truncated") == list(
        zip(range(1, 9), [0.5, 0.75, 0.75, 0.75, 0.5, 0.75, 0.75, 0.75], strict=True)
    )
    assert [value for _, value in curve(tmp_path, "alarm/truncated")] == [0, 0, 1, 1, 0, 0, 1, 1]
    assert len(warned) == 2
    assert warned[0].startswith("alarm truncated: share of completions cut off at the length limit is 0.75, above 0.5")
    assert "raise data.max_completion_tokens" in warned[0]
    for quiet in ("misplaced_tokens", "reward_failures", "tied_groups"):
        assert {value for _, value in curve(tmp_path, f"alarm/{quiet}")} == {0}


def test_stop_ends_the_training(tmp_path):
    trainer, warned = run(tmp_path, Sick(lambda r: 4), Alarms(action="stop", patience=2))
    assert len(warned) == 1
    assert trainer.global_step == 3  # first of the two optimizer steps of rollout 2


def test_counts_survive_a_checkpoint(tmp_path):
    trainer, warned = run(tmp_path, Sick(lambda r: 4), Alarms(patience=4), 3)
    assert not warned
    trainer.save_checkpoint(tmp_path / "cut.ckpt")
    _, warned = run(tmp_path, Sick(lambda r: 4), Alarms(patience=4), 5, checkpoint=str(tmp_path / "cut.ckpt"))
    assert len(warned) == 1


def test_the_gap_is_measured_where_the_trainer_has_its_own_logprobs(tmp_path):
    run(tmp_path, Sick(gap=-0.25), Alarms(), 1)
    assert curve(tmp_path, "alarm/value/logprob_gap") == [(1, 0.25)]


def test_the_gap_is_else_the_metric(tmp_path):
    run(tmp_path, Sick(), Alarms(), 1)
    assert curve(tmp_path, "alarm/value/logprob_gap") == [(1, 0.01)]


def test_gap_leaves_out_completions_the_trainer_did_not_compute():
    done = [completion([1, 2]), completion([3, 4, 5])]
    assert gap_sums(done, [torch.tensor([-1.5, -0.5]), done[1].logprobs]) == (1.0, 2)
    assert gap_sums(done, None) == (0, 0)


def test_a_pad_may_end_a_completion_but_not_stand_in_it():
    assert misplaced([completion([1, 2, 9]), completion([3])], [7], 9) == 0
    assert misplaced([completion([1, 9, 9]), completion([7, 3, 7])], [7], 9) == 3


def test_failures_are_not_wrong_answers():
    found = {code: failed(reward(code)) for code in (None, "no_answer", "unparsed", "timeout", "bad_gold", "KeyError")}
    assert found == {None: 0, "no_answer": 0, "unparsed": 0, "timeout": 1, "bad_gold": 1, "KeyError": 1}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patience": 0}, "Alarms.patience is 0"),
        ({"truncated": -0.1}, "Alarms.truncated is -0.1; it must be 0 or more"),
        ({"logprob_gap": float("nan")}, "Alarms.logprob_gap is nan"),
        ({"action": "shout"}, "Alarms.action is 'shout'; it must be warn or stop"),
    ],
)
def test_arguments_are_checked(options, message):
    with pytest.raises(UserError, match=message):
        Alarms(**options)
