from types import SimpleNamespace

import pytest
import torch

from lit_g2rpo.experience import Completion, Experience, Prompt, RolloutTable
from lit_g2rpo.objectives import GRPO
from lit_g2rpo.objectives.losses import ppo
from lit_g2rpo.policy.batching import balanced_bins
from lit_g2rpo.training.table import Cut, build_microbatches, trained_rows


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
        rewards=torch.zeros(len(lengths), len(lengths[0])),
        lengths=torch.tensor(lengths),
        valid=torch.ones(len(lengths), len(lengths[0]), dtype=torch.bool),
        entropy_counts=torch.ones(len(lengths), len(lengths[0]), dtype=torch.bool),
        advantages=torch.tensor(advantages, dtype=torch.float64),
        task_ids=torch.arange(len(lengths)) % 2,
        problem_type_ids=torch.zeros(len(lengths), dtype=torch.long),
        entropy_direction=torch.zeros(2, dtype=torch.float64),
    )
    return Experience(prompts, completions, [], None, None, table)


BAND = GRPO(entropy_coefficient=0.02)


def cut(objective: GRPO = BAND) -> Cut:
    return Cut(epochs=1, updates=1, accumulate=2, max_tokens=10, objective=objective)


def three_groups() -> Experience:
    """The second group is tied at advantage 0."""
    return experience([[3, 1], [2, 2], [4, 4]], [[1, -1], [0, 0], [0.5, -0.5]], [5, 6, 7])


def test_a_tied_group_is_not_trained_but_counts_in_the_normaliser() -> None:
    rollout = three_groups()
    assert trained_rows(rollout.table, BAND).any(1).tolist() == [True, False, True]
    microbatches = build_microbatches(rollout, cut(), torch.empty(0))
    assert sorted(len(m.fields.weight) for m in microbatches) == [4, 8]
    # 2 micro-batches per step; 16 answer tokens in all three groups
    for m in microbatches:
        torch.testing.assert_close(m.fields.weight, torch.full_like(m.fields.weight, 2 / 16))


@pytest.mark.parametrize("case", ["kl", "entropy"])
def test_a_tied_group_is_trained_where_another_term_acts_on_it(case: str) -> None:
    rollout, objective = three_groups(), BAND
    if case == "kl":
        objective = GRPO(kl_coefficient=0.1)
    else:
        rollout.table.entropy_direction[1] = -1  # the tied group's task is below its band
    assert trained_rows(rollout.table, objective).all()


def test_an_entropy_band_of_weight_zero_acts_on_nothing() -> None:
    rollout = three_groups()
    rollout.table.entropy_direction[1] = -1
    assert trained_rows(rollout.table, GRPO()).any(1).tolist() == [True, False, True]


def test_neither_advantages_nor_kl_act_on_a_dropped_group() -> None:
    rollout = three_groups()
    rollout.table.valid[0] = False
    assert trained_rows(rollout.table, GRPO(kl_coefficient=1.0)).any(1).tolist() == [False, True, True]


@pytest.mark.parametrize("mean", ["token", "completion", "constant"])
def test_the_entropy_band_alone_acts_on_a_dropped_group(mean: str) -> None:
    """A collapsed task writes the same answer 8 times: every group of it is dropped, and only the band can help."""
    rollout = three_groups()
    rollout.table.valid[1] = False  # 4 tokens, all that task 1 has
    rollout.table.entropy_direction[1] = -1
    objective = GRPO(mean=mean, entropy_coefficient=0.02)
    assert trained_rows(rollout.table, objective).all()
    fields = [m.fields for m in build_microbatches(rollout, cut(objective), torch.empty(0))]
    weight, entropy_weight, task = (
        torch.cat([getattr(part, name) for part in fields]) for name in ("weight", "entropy_weight", "task_ids")
    )
    assert (weight[task == 0] > 0).all()
    assert not weight[task == 1].any()
    # 2 micro-batches per step
    torch.testing.assert_close(entropy_weight, torch.where(task == 1, -2 * 0.02 / 4, 0.0))


def test_the_entropy_of_a_masked_completion_is_not_shaped() -> None:
    rollout = three_groups()
    rollout.table.entropy_direction[1] = 1
    rollout.table.valid[1, 0] = rollout.table.entropy_counts[1, 0] = False
    assert trained_rows(rollout.table, BAND).tolist() == [[True, True], [False, True], [True, True]]
    fields = [m.fields for m in build_microbatches(rollout, cut(), torch.empty(0))]
    shaped = torch.cat([part.entropy_weight[part.task_ids == 1] for part in fields])
    torch.testing.assert_close(shaped, torch.full((2,), 2 * 0.02 / 2))


def test_bins_hold_each_completion_once_and_groups_whole() -> None:
    rollout = experience([[4, 4]] * 6, [[1, -1]] * 6, [10, 10, 10, 40, 10, 10])
    bins = balanced_bins(rollout, torch.ones_like(rollout.table.valid), 2)
    assert sorted(i for rows in bins for i in rows) == list(range(12))
    for rows in bins:
        assert {i ^ 1 for i in rows} == set(rows)
    # tokens with prompts: 48 + 18 against 4 x 18
    assert {len(rows) for rows in bins} == {4, 8}


def test_a_group_larger_than_a_bin_is_split() -> None:
    rollout = experience([[9, 1, 5, 5]], [[1, -1, 1, -1]], [4])
    bins = balanced_bins(rollout, torch.ones_like(rollout.table.valid), 2)
    assert sorted(map(sorted, bins)) == [[0, 1], [2, 3]]


def test_no_bin_is_more_than_a_group_above_another() -> None:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 30, (40, 4), generator=generator).tolist()
    rollout = experience(lengths, [[1.0, -1, 1, -1]] * 40, torch.randint(5, 60, (40,), generator=generator).tolist())
    bins = balanced_bins(rollout, torch.ones_like(rollout.table.valid), 4)
    tokens = [
        sum(lengths[i // 4][i % 4] for i in rows)
        + sum(len(rollout.prompts[p].encoded.input_ids) for p in {i // 4 for i in rows})
        for rows in bins
    ]
    assert (max(tokens) - min(tokens)) / max(tokens) < 0.05


def test_an_empty_bin_is_there_too() -> None:
    rollout = three_groups()
    assert balanced_bins(rollout, torch.zeros_like(rollout.table.valid), 3) == [[], [], []]


@pytest.mark.parametrize(
    ("mean", "expected"),
    # completions of 3, 1, 2, 2, 4, 4 tokens; 2 micro-batches per step
    [("token", [2 / 16] * 6), ("completion", [2 / 6 / n for n in (3, 1, 2, 2, 4, 4)]), ("constant", [2 / 60] * 6)],
)
def test_what_the_loss_is_a_mean_over(mean: str, expected: list[float]) -> None:
    rollout = three_groups()
    rollout.table.advantages[1] = torch.tensor([1.0, -1.0])
    microbatches = build_microbatches(rollout, cut(GRPO(mean=mean)), torch.empty(0))
    weights = {int(ids[0]): m.fields.weight[at] for m in microbatches for at, ids in first_tokens(m)}
    torch.testing.assert_close([float(weights[i]) for i in range(6)], expected)


@pytest.mark.parametrize("loss", ["ppo", "gspo"])
def test_losses_of_microbatches_add_up_to_the_token_mean(loss: str) -> None:
    torch.manual_seed(0)
    rollout, objective = three_groups(), GRPO(loss=loss)
    rollout.table.advantages[1] = torch.tensor([1.0, -1.0])
    # not counted: its tokens may hold anything
    rollout.table.valid[2, 1] = False
    rollout.completions[5].logprobs.fill_(torch.nan)
    now = [completion.logprobs + 0.4 * torch.randn(len(completion.logprobs)) for completion in rollout.completions]
    microbatches = build_microbatches(rollout, cut(objective), torch.empty(0))
    found = []
    for m in microbatches:
        logprobs = torch.cat([now[int(ids[0])] for ids in m.token_ids]).requires_grad_()
        losses, _ = objective.token_loss(logprobs, torch.zeros_like(logprobs), m.fields)
        losses.sum().backward()
        assert logprobs.grad.isfinite().all()
        found.append(losses.sum().detach())
    expected = []
    for completion, logprobs, advantage in zip(
        rollout.completions[:5], now, rollout.table.advantages.flatten().float(), strict=False
    ):
        ratio = logprobs - completion.logprobs
        ratio = ratio.mean().expand_as(ratio) if loss == "gspo" else ratio
        expected.append(ppo(ratio, torch.zeros_like(ratio), advantage, clip_low=0.2, clip_high=0.3, dual_clip=3.0)[0])
    # the trainer divides by the 2 micro-batches of the step
    torch.testing.assert_close(sum(found) / 2, torch.cat(expected).mean())


def first_tokens(microbatch):
    """Where each completion begins in the flat fields; its token ids are its number."""
    at = 0
    for ids in microbatch.token_ids:
        yield at, ids
        at += len(ids)


def test_a_completion_that_does_not_count_is_left_out_alone() -> None:
    rollout = three_groups()
    rollout.table.valid[0, 0] = False  # masked: 3 tokens
    microbatches = build_microbatches(rollout, cut(), torch.empty(0))
    assert sorted(int(ids[0]) for m in microbatches for ids in m.token_ids) == [1, 4, 5]
    weights = torch.cat([m.fields.weight for m in microbatches])
    torch.testing.assert_close(weights, torch.full_like(weights, 2 / 13))


def test_the_engine_is_corrected_for_up_to_a_cap() -> None:
    rollout = three_groups()
    rollout.old_logprobs = [
        c.logprobs + shift for c, shift in zip(rollout.completions, [0, -1, 0, 0, 0.1, 5], strict=True)
    ]
    microbatches = build_microbatches(rollout, cut(GRPO(importance_cap=2.0)), torch.empty(0))
    found = {int(ids[0]): float(m.fields.importance[at]) for m in microbatches for at, ids in first_tokens(m)}
    assert found == pytest.approx({0: 1.0, 1: 0.36787944, 4: 1.1051709, 5: 2.0}, rel=1e-5)
    assert build_microbatches(rollout, cut(), torch.empty(0))[0].fields.importance is None


def test_completions_are_numbered_for_losses_that_look_at_whole_ones() -> None:
    microbatches = build_microbatches(three_groups(), cut(GRPO(loss="gspo")), torch.empty(0))
    for m in microbatches:
        assert m.fields.completion_ids.tolist() == [i for i, ids in enumerate(m.token_ids) for _ in ids]
