"""Alarms on a real trainer."""

import warnings

import pytest
import torch
from helpers.toy import ToyModule, fit
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lit_g2rpo.callbacks import Alarms
from lit_g2rpo.callbacks.alarms import failed, gap_sums, misplaced
from lit_g2rpo.callbacks.decline import describe_decline
from lit_g2rpo.errors import UserError
from lit_g2rpo.experience import Completion
from lit_g2rpo.loggers.tensorboard import tag_of
from lit_g2rpo.rewards import RewardResult


class Sick(ToyModule):
    """A toy whose rollouts have what the test says: truncated completions (of 4), and a log-probability gap."""

    def __init__(self, truncated=lambda rollout: 0, gap=None, **options):
        super().__init__(**options)
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
    return [(event.step, round(event.value, 6)) for event in events.Scalars(tag_of(tag))]


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


def test_a_run_that_ends_below_its_start_says_what_fell(tmp_path):
    falling = Sick(validation=lambda rollout: 0.5 - rollout / 100)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(falling, tmp_path, [Alarms()], rollouts=8)
    said = [str(w.message) for w in caught if "below_start" in str(w.message)]
    # at rollout 6 it is 0.06 below, more than 0.05
    assert [value for _, value in curve(tmp_path, "alarm/below_start")] == [0, 0, 1, 1]
    assert len(said) == 1
    assert said[0].startswith("alarm below_start: val/accuracy is 0.440, at the start 0.500: a 0.400 -> 0.340, b 0.600")


@pytest.mark.parametrize(
    ("ends", "fires"), [(0.5, False), (0.51, False), (0.499, True), (0.0, True)], ids=["same", "up", "down", "nothing"]
)
def test_the_last_validation_counts_however_small_the_loss(tmp_path, ends, fires):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(Sick(validation=lambda r: ends if r == 4 else 0.5), tmp_path, [Alarms()], rollouts=4)
    assert any("below_start" in str(w.message) for w in caught) == fires


def test_the_alarm_tells_a_lost_format_from_a_lost_skill():
    before = {"val/accuracy": 0.5, "val/accuracy/a": 0.5, "val/format": 1.0, "val/truncated": 0.0}
    after = {"val/accuracy": 0.0, "val/accuracy/a": 0.0, "val/format": 0.25, "val/truncated": 0.0}
    assert describe_decline(before, after) == (
        "val/accuracy is 0.000, at the start 0.500: a 0.500 -> 0.000, format 1.000 -> 0.250"
    )
    assert describe_decline(after, before) is None
    assert describe_decline(after, after) == "val/accuracy is 0.000, at the start 0.000"


class Formless(Sick):
    """A toy that does not write the form it is asked for, from a given rollout on, and whose rewards then tie at 0."""

    def __init__(self, since=1, **options):
        super().__init__(**options)
        self.since = since

    def collect(self):
        experience = super().collect()
        if self.rollout_index >= self.since:
            experience.rewards = [RewardResult(0.0, 0.0, 0.0, 0.0, {}, "no_answer", 0.0) for _ in experience.rewards]
            experience.table.rewards.zero_()
        return experience

    def on_validation_epoch_end(self):
        super().on_validation_epoch_end()
        form = float(self.rollout_index + 1 < self.since)
        self.validation_history[-1] |= {f"val/format/{task}": form for task in self.tasks}


def said_of(tmp_path, module, **options):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(module, tmp_path, [Alarms(patience=2)], 4, **options)
    return [str(w.message) for w in caught if str(w.message).startswith("alarm ")]


def test_a_missing_form_is_named_in_place_of_the_prompts(tmp_path):
    said = said_of(tmp_path, Formless(validation=lambda _: 0.0), num_sanity_val_steps=0)
    assert [text.split(":")[0] for text in said] == ["alarm unformed", "alarm tied_groups", "alarm below_start"]
    assert "not in the form the prompt asks for is 1, above 0.95 for 2 rollouts (one of them: '<thinking>" in said[0]
    assert all("give the wording it was trained with in data.prompt_template" in text for text in said)
    assert not any("easier or harder" in text or "learning rate" in text for text in said)
    assert [value for _, value in curve(tmp_path, "alarm/unformed")] == [0, 1, 1, 1]


def test_a_missing_form_is_named_by_the_first_validation(tmp_path):
    said = said_of(tmp_path, Formless(validation=lambda _: 0.0))
    assert said[0].startswith("alarm unformed: ")
    assert said[0].count("is 1 in the first validation") == 1
    assert sum("alarm unformed" in text for text in said) == 1


def test_ties_of_completions_that_have_the_form_are_still_the_prompts_matter(tmp_path):
    class Tied(Sick):
        def collect(self):
            experience = super().collect()
            experience.table.rewards.zero_()
            return experience

    said = said_of(tmp_path, Tied())
    assert [text.split(":")[0] for text in said] == ["alarm tied_groups"]
    assert "mix in easier or harder prompts" in said[0]


def test_the_form_of_a_custom_reward_is_its_own_matter(tmp_path):
    module = Formless(validation=lambda _: 0.5)
    for task in module.tasks.values():
        task.reward = "mine.score"
    assert not [text for text in said_of(tmp_path, module) if text.startswith("alarm unformed")]
