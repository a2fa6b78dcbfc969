"""Which groups are kept."""

import pytest
import torch

from lit_g2rpo.objectives.filtering import kept_groups


def keep(accuracy, rewards, groups, low=0.01, high=0.99):
    return kept_groups(
        torch.tensor(accuracy), [torch.tensor(rewards)], torch.tensor(groups), low=low, high=high
    ).tolist()


def test_all_right_all_wrong_and_tied_groups_go():
    accuracy = [1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.5, 0.5]
    rewards = [1.0, 1.1, 0.0, 0.1, 0.0, 1.0, 0.5, 0.5]
    assert keep(accuracy, rewards, [7, 7, 2, 2, 5, 5, 9, 9]) == [False] * 4 + [True] * 2 + [False] * 2


def test_bounds_are_strict():
    assert keep([0.0, 0.5], [0.0, 1.0], [0, 0], low=0.25, high=0.5) == [False, False]
    assert keep([0.0, 0.5], [0.0, 1.0], [0, 0], low=0.2, high=0.25) == [False, False]
    assert keep([0.0, 0.5], [0.0, 1.0], [0, 0], low=0.2, high=0.3) == [True, True]


def test_float_noise_is_a_tie_and_interleaved_groups_are_told_apart():
    assert keep([0.0, 1.0, 1.0, 0.0], [0.3, 0.0, 0.3 + 3e-8, 1.0], [0, 1, 0, 1]) == [False, True, False, True]
    assert keep([0.4, 0.5, 0.6], [0.3, 0.3 + 3e-8, 0.7], [0, 0, 0]) == [True] * 3


def test_group_of_one_has_nothing_to_compare():
    assert keep([0.5], [0.5], [3]) == [False]
    assert kept_groups(torch.empty(0), [torch.empty(0)], torch.empty(0, dtype=torch.long), low=0, high=1).tolist() == []


def test_a_group_stays_while_one_compared_reward_differs():
    accuracy, shape = torch.tensor([1.0, 1, 0, 0, 0.5, 0.5]), torch.tensor([0.0, 0, 1, 1, 1, 1])
    groups = torch.tensor([0, 0, 0, 0, 1, 1])
    found = kept_groups(accuracy, [accuracy + shape, accuracy], groups, low=0.01, high=0.99)
    assert found.tolist() == [True] * 4 + [False] * 2
    assert not kept_groups(accuracy, [accuracy + shape], groups, low=0.01, high=0.99).any()


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match=r"\[1\]"):
        keep([0.0, float("nan")], [0.0, 1.0], [0, 0])
    with pytest.raises(ValueError, match="same length"):
        keep([0.0, 1.0], [0.0, 1.0], [0])
