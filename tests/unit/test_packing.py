"""The packed forward against the padded one: loss and every gradient, in single and double precision."""

from typing import Any

import pytest
import torch
from helpers.forwards import FROZEN, LENGTHS, assert_equal, batch, learn, load
from helpers.prompts import make_prompt

from lit_g2rpo.experience import Microbatch, Prompt
from lit_g2rpo.objectives.fields import TokenFields
from lit_g2rpo.policy.config import LoraConfig
from lit_g2rpo.policy.forward.packing import pack

pytestmark = pytest.mark.usefixtures("exact_norms")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"freeze": FROZEN},
        {"freeze": ["vision"]},
        {"lora": LoraConfig(rank=2, alpha=4)},
        {"packed_attention": "two_part"},
        {"activation_checkpointing": "full"},
        {"activation_checkpointing": "selective"},
        {"activation_checkpointing": "selective", "freeze": FROZEN, "lora": LoraConfig(rank=2, alpha=4)},
    ],
    ids=["trained", "frozen", "merger", "lora", "two_part", "full", "selective", "lora_selective"],
)
def test_loss_and_gradients_equal_the_padded_forward(
    random_folder: str, mixed_prompts: list[Prompt], options: dict[str, Any], dtype: torch.dtype
) -> None:
    microbatch = batch(mixed_prompts, dtype)
    same = {name: value for name, value in options.items() if name in ("freeze", "lora")}
    expected = learn(load(random_folder, False, dtype, **same), microbatch)
    assert_equal(learn(load(random_folder, True, dtype, **options), microbatch), expected, dtype)


def test_a_split_group_repeats_its_prompt_and_nothing_else_changes(random_folder: str) -> None:
    whole = batch([make_prompt("two", 2)], torch.float64)
    first, second = (
        Microbatch(whole.prompts[rows], whole.token_ids[rows], cut(whole, rows)) for rows in (slice(0, 1), slice(1, 4))
    )
    split = load(random_folder, True, torch.float64)
    assert_equal(learn(split, first, second), learn(load(random_folder, False, torch.float64), whole), torch.float64)
    assert split.backbone.counters.train_prompt_tokens == 2 * len(split.encode(whole.prompts[0]).input_ids)


def cut(whole: Microbatch, rows: slice) -> TokenFields:
    row_of = torch.arange(len(whole.token_ids)).repeat_interleave(torch.tensor([len(ids) for ids in whole.token_ids]))
    chosen = torch.isin(row_of, torch.arange(len(whole.token_ids))[rows])
    f = whole.fields
    fields = (f.advantages, f.old_logprobs, f.ref_logprobs, f.weight, f.entropy_weight, f.task_ids)
    return TokenFields(*(field[chosen] for field in fields))  # type: ignore[index]


@pytest.mark.parametrize("freeze", [[], FROZEN], ids=["trained", "frozen"])
@pytest.mark.parametrize("lora", [None, LoraConfig(rank=2, alpha=4)], ids=["full", "lora"])
def test_an_empty_batch_gives_zero_gradients(random_folder: str, freeze: list[Any], lora: LoraConfig | None) -> None:
    policy = load(random_folder, True, freeze=freeze, lora=lora)
    loss, gradients = learn(policy, batch([], torch.float32))
    assert loss == 0
    assert all(gradient.abs().max() == 0 for gradient in gradients.values())
    assert policy.backbone.counters.images_encoded == (0 if freeze or lora else 1)


def test_text_under_a_trained_tower_changes_no_gradient_of_the_rest(random_folder: str) -> None:
    microbatch = batch([make_prompt("text", 0)], torch.float64)
    policy = load(random_folder, True, torch.float64)
    loss, gradients = learn(policy, microbatch)
    assert policy.backbone.counters.images_encoded == 1
    expected, without = learn(load(random_folder, True, torch.float64, freeze=FROZEN), microbatch)
    torch.testing.assert_close(loss, expected)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, without.get(name, torch.zeros_like(gradient)), atol=1e-12, rtol=1e-9)


def test_counters_are_exact(random_folder: str, mixed_prompts: list[Prompt]) -> None:
    policy = load(random_folder, True, freeze=FROZEN)
    microbatch = batch(mixed_prompts, torch.float32)
    for _ in range(2):
        learn(policy, microbatch)
    counters = policy.backbone.counters
    assert counters.train_passes == 2
    assert counters.train_prompt_tokens == 2 * sum(len(policy.encode(prompt).input_ids) for prompt in mixed_prompts)
    # the last token of a completion predicts nothing
    assert counters.train_completion_tokens == 2 * sum(n - 1 for lengths in LENGTHS.values() for n in lengths)
    assert counters.train_padded_tokens == 0
    assert counters.images_preprocessed == counters.images_encoded == 4


def test_padded_counters_count_every_row(random_folder: str, mixed_prompts: list[Prompt]) -> None:
    policy = load(random_folder, False)
    microbatch = batch(mixed_prompts, torch.float32)
    learn(policy, microbatch)
    rows = [len(policy.encode(p).input_ids) for p in microbatch.prompts]
    answers = [len(ids) for ids in microbatch.token_ids]
    longest = max(a + b for a, b in zip(rows, answers, strict=True))
    counters = policy.backbone.counters
    assert counters.train_prompt_tokens == sum(rows)
    assert counters.train_completion_tokens == sum(answers)
    assert counters.train_padded_tokens == len(rows) * longest - sum(rows) - sum(answers)
    assert counters.images_encoded == sum(len(p.images) for p in microbatch.prompts)


def test_an_image_token_in_a_completion_is_no_image(random_folder: str) -> None:
    policy = load(random_folder, True, torch.float64)
    prompt, image = make_prompt("one", 1), policy.base.config.image_token_id
    with torch.no_grad():
        found, _ = policy.token_stats([prompt], [torch.tensor([30, image, 31])])
        plain, _ = policy.token_stats([prompt], [torch.tensor([30])])
    torch.testing.assert_close(found[:1], plain)
    assert found.isfinite().all()


def test_positions_are_those_of_each_row_alone(random_folder: str, mixed_prompts: list[Prompt]) -> None:
    policy = load(random_folder, True)
    microbatch = batch(mixed_prompts, torch.float32)
    rows = [policy.encode(prompt) for prompt in microbatch.prompts]
    packed = pack(rows, microbatch.token_ids)
    first = 0
    for row, ids in zip(rows, microbatch.token_ids, strict=True):
        sequence = torch.cat([row.input_ids, ids])[None]
        types = torch.cat([row.token_types, torch.zeros_like(ids)])[None]
        positions, _ = policy.base.model.get_rope_index(sequence, types, row.image_grid)
        own = packed.predictors[first : first + len(ids)]
        expected = slice(len(row.input_ids) - 1, len(row.input_ids) + len(ids) - 1)
        assert packed.input_ids[own].equal(sequence[0, expected])
        assert packed.positions[:, own].equal(positions[:, 0, expected])
        first += len(ids)


def test_no_mask_of_all_pairs_is_built(random_folder: str, mixed_prompts: list[Prompt]) -> None:
    policy = load(random_folder, True, freeze=FROZEN)
    microbatch = batch(mixed_prompts, torch.float32)
    seen = []
    layer = policy.base.model.language_model.layers[0]
    layer.self_attn.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append((kwargs["hidden_states"].shape[1], kwargs["attention_mask"].numel())),
        with_kwargs=True,
    )
    learn(policy, microbatch)
    prompts = sum(len(policy.encode(prompt).input_ids) for prompt in mixed_prompts)
    assert seen == [(prompts + sum(len(ids) - 1 for ids in microbatch.token_ids), 0)]
