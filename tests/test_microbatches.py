from types import SimpleNamespace

import pytest
import torch

from lit_g2rpo.experience import Completion, Experience, Prompt, RolloutTable
from lit_g2rpo.microbatches import Plan, balanced_bins, build_microbatches, trained_groups


def experience(lengths: list[list[int]], advantages: list[list[float]], prompt_tokens: list[int]) -> Experience:
    """A rollout of one rank, tasks 0 and 1 in turn."""
    prompts = [Prompt(str(i), "", "", [], [], {}) for i in range(len(lengths))]
    for prompt, size in zip(prompts, prompt_tokens, strict=True):
        prompt.encoded = SimpleNamespace(input_ids=range(size))
    completions = [
        Completion(torch.full((n,), i), torch.full((n,), -1.0 - i), torch.ones(n), "", False)
        for i, n in enumerate(n for row in lengths for n in row)
    ]
    table = RolloutTable(
        lengths=torch.tensor(lengths),
        valid=torch.ones(len(lengths), len(lengths[0]), dtype=torch.bool),
        advantages=torch.tensor(advantages, dtype=torch.float64),
        task_ids=torch.arange(len(lengths)) % 2,
        entropy_direction=torch.zeros(2, dtype=torch.float64),
    )
    return Experience(prompts, completions, [], torch.zeros(len(completions)), None, table)


PLAN = Plan(epochs=1, updates=1, accumulate=2, entropy_coefficient=0.02, kl=False)


def three_groups() -> Experience:
    """The second group is tied at advantage 0."""
    return experience([[3, 1], [2, 2], [4, 4]], [[1, -1], [0, 0], [0.5, -0.5]], [5, 6, 7])


def test_a_tied_group_is_not_trained_but_counts_in_the_normaliser() -> None:
    rollout = three_groups()
    assert trained_groups(rollout.table, PLAN).tolist() == [True, False, True]
    microbatches = build_microbatches(rollout, PLAN, torch.empty(0))
    assert sorted(len(m.fields.weight) for m in microbatches) == [4, 8]
    # 2 micro-batches per step; 16 answer tokens in all three groups
    for m in microbatches:
        torch.testing.assert_close(m.fields.weight, torch.full_like(m.fields.weight, 2 / 16))


@pytest.mark.parametrize("case", ["kl", "entropy"])
def test_a_tied_group_is_trained_where_another_term_acts_on_it(case: str) -> None:
    rollout, plan = three_groups(), PLAN
    if case == "kl":
        plan = Plan(1, 1, 2, 0.02, kl=True)
    else:
        rollout.table.entropy_direction[1] = -1  # the tied group's task is below its band
    assert trained_groups(rollout.table, plan).all()


def test_an_entropy_band_of_weight_zero_acts_on_nothing() -> None:
    rollout = three_groups()
    rollout.table.entropy_direction[1] = -1
    assert trained_groups(rollout.table, Plan(1, 1, 2, 0.0, kl=False)).tolist() == [True, False, True]


def test_a_dropped_group_is_never_trained() -> None:
    rollout = three_groups()
    rollout.table.valid[0] = False
    assert trained_groups(rollout.table, Plan(1, 1, 2, 0.02, kl=True)).tolist() == [False, True, True]


def test_bins_hold_each_completion_once_and_groups_whole() -> None:
    rollout = experience([[4, 4]] * 6, [[1, -1]] * 6, [10, 10, 10, 40, 10, 10])
    bins = balanced_bins(rollout, torch.ones(6, dtype=torch.bool), 2)
    assert sorted(i for rows in bins for i in rows) == list(range(12))
    for rows in bins:
        assert {i ^ 1 for i in rows} == set(rows)
    # tokens with prompts: 48 + 18 against 4 x 18
    assert {len(rows) for rows in bins} == {4, 8}


def test_a_group_larger_than_a_bin_is_split() -> None:
    rollout = experience([[9, 1, 5, 5]], [[1, -1, 1, -1]], [4])
    bins = balanced_bins(rollout, torch.ones(1, dtype=torch.bool), 2)
    assert sorted(map(sorted, bins)) == [[0, 1], [2, 3]]


def test_no_bin_is_more_than_a_group_above_another() -> None:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 30, (40, 4), generator=generator).tolist()
    rollout = experience(lengths, [[1.0, -1, 1, -1]] * 40, torch.randint(5, 60, (40,), generator=generator).tolist())
    bins = balanced_bins(rollout, torch.ones(40, dtype=torch.bool), 4)
    tokens = [
        sum(lengths[i // 4][i % 4] for i in rows)
        + sum(len(rollout.prompts[p].encoded.input_ids) for p in {i // 4 for i in rows})
        for rows in bins
    ]
    assert (max(tokens) - min(tokens)) / max(tokens) < 0.05


def test_an_empty_bin_is_there_too() -> None:
    rollout = three_groups()
    assert balanced_bins(rollout, torch.zeros(3, dtype=torch.bool), 3) == [[], [], []]
