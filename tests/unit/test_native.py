"""The native engine against the Hugging Face engine, teacher-forced forwards, and itself in other shapes."""

from collections import Counter
from collections.abc import Iterator
from copy import deepcopy
from itertools import chain
from typing import Any

import pytest
import torch
from helpers.forwards import assert_same
from helpers.prompts import make_prompt

import lit_g2rpo.rollout.native.decoder
import lit_g2rpo.rollout.native.prefill
from lit_g2rpo.errors import UserError
from lit_g2rpo.experience import Completion, Prompt
from lit_g2rpo.mini.policy import initial_policy
from lit_g2rpo.policy.config import LoraConfig, PolicyConfig, Shapes
from lit_g2rpo.policy.counters import Counters
from lit_g2rpo.policy.families.qwen3_vl import Qwen3VL
from lit_g2rpo.policy.forward.vision import image_features
from lit_g2rpo.policy.loading import load_policy
from lit_g2rpo.policy.policy import Policy
from lit_g2rpo.rollout.engine import Sampling
from lit_g2rpo.rollout.huggingface import HuggingFaceEngine
from lit_g2rpo.rollout.native.decoder import Layer, read_layers
from lit_g2rpo.rollout.native.engine import NativeEngine
from lit_g2rpo.rollout.native.prefill import token_bytes
from lit_g2rpo.rollout.native.slots import Slots, StepShape


@pytest.fixture(scope="module")
def random_policy(random_folder: str) -> Policy:
    return load_policy(PolicyConfig(path=random_folder))


@pytest.fixture
def policy(random_policy: Policy) -> Iterator[Policy]:
    """The policy with fresh counters; its end tokens may be changed."""
    random_policy.backbone.counters = Counters()
    ends = random_policy.base.generation_config.eos_token_id
    yield random_policy
    random_policy.base.generation_config.eos_token_id = ends


@pytest.fixture
def adapted(random_folder: str) -> Policy:
    policy = load_policy(PolicyConfig(path=random_folder, lora=LoraConfig(rank=4, alpha=8, dropout=0.5)))
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.2)
    return policy


def sample(
    engine: NativeEngine | HuggingFaceEngine, policy: Policy, prompts: list[Prompt], group_size: int, sampling: Sampling
) -> list[Completion]:
    engine.attach(policy)
    return engine.generate(prompts, group_size, sampling)


def end_often(policy: Policy, prompts: list[Prompt], sampling: Sampling) -> list[Completion]:
    """Make every eighth token an end token; return completions, which differ in length, of the Hugging Face engine."""
    policy.base.generation_config.eos_token_id = list(range(0, policy.base.config.text_config.vocab_size, 8))
    completions = sample(HuggingFaceEngine(), policy, prompts, 4, sampling)
    assert len({len(c.token_ids) for c in completions}) > 4
    return completions


SAMPLINGS = [
    pytest.param(Sampling(14, temperature=0), id="greedy"),
    pytest.param(Sampling(14, seed=1), id="plain"),
    pytest.param(Sampling(14, temperature=0.7, seed=2, rollout=3), id="cold"),
    pytest.param(Sampling(14, top_p=0.9, top_k=30, wave=1), id="truncated"),
    pytest.param(Sampling(1), id="one-token"),
]


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_equals_the_huggingface_engine(policy: Policy, mixed_prompts: list[Prompt], sampling: Sampling) -> None:
    theirs = sample(HuggingFaceEngine(), policy, mixed_prompts, 3, sampling)
    assert_same(sample(NativeEngine(), policy, mixed_prompts, 3, sampling), theirs)
    assert_same(sample(NativeEngine(slots=5), policy, mixed_prompts, 3, sampling), theirs)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_equal_a_teacher_forced_forward(
    policy: Policy, mixed_prompts: list[Prompt], temperature: float
) -> None:
    completions = sample(NativeEngine(), policy, mixed_prompts, 3, Sampling(12, temperature))
    policy.temperature = temperature
    rows = [p for p in mixed_prompts for _ in range(3)]
    with torch.no_grad():
        logprobs, entropy = policy.token_stats(rows, [c.token_ids for c in completions])
    policy.temperature = 1.0
    torch.testing.assert_close(torch.cat([c.logprobs for c in completions]), logprobs, atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.cat([c.entropy for c in completions]), entropy, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("max_rows", "slots"), [(512, None), (8, None), (3, None), (512, 16), (512, 5), (8, 3)])
def test_completions_of_many_lengths_do_not_depend_on_the_shape_of_decoding(
    policy: Policy, mixed_prompts: list[Prompt], max_rows: int, slots: int | None
) -> None:
    sampling = Sampling(40, seed=5)
    theirs = end_often(policy, mixed_prompts, sampling)
    assert_same(sample(NativeEngine(max_rows, slots), policy, mixed_prompts, 4, sampling), theirs)


@pytest.mark.parametrize(
    ("max_rows", "slots", "fixed"), [(512, None, False), (8, 3, False), (512, 5, False), (8, 5, True)]
)
def test_a_group_is_handed_over_as_soon_as_its_last_row_is_done(
    policy: Policy,
    mixed_prompts: list[Prompt],
    monkeypatch: pytest.MonkeyPatch,
    max_rows: int,
    slots: int | None,
    fixed: bool,
) -> None:
    sampling = Sampling(40, seed=5)
    end_often(policy, mixed_prompts, sampling)
    monkeypatch.setattr(policy, "_shapes", "static" if fixed else "exact")
    steps: list[int] = []
    handed: dict[int, list[Completion]] = {}

    def finished(index: int, completions: list[Completion]) -> None:
        assert index not in handed
        handed[index] = completions
        steps.append(policy.backbone.counters.row_steps)

    engine = NativeEngine(max_rows, slots)
    engine.attach(policy)
    before = policy.backbone.counters.row_steps
    completions = engine.generate(mixed_prompts, 4, sampling, finished)
    assert [c for i in sorted(handed) for c in handed[i]] == completions
    assert len(set(steps)) > 1, "groups end at different steps"
    assert before < min(steps) < policy.backbone.counters.row_steps
    assert not any(c.logprobs.is_inference() for c in completions)


def test_completions_do_not_depend_on_the_rows_beside_them(policy: Policy, mixed_prompts: list[Prompt]) -> None:
    sampling = Sampling(12, seed=7)
    together = sample(NativeEngine(), policy, mixed_prompts, 4, sampling)
    backwards = sample(NativeEngine(), policy, mixed_prompts[::-1], 4, sampling)
    assert_same([c for i in reversed(range(4)) for c in backwards[4 * i : 4 * i + 4]], together)
    assert_same(
        sample(NativeEngine(), policy, mixed_prompts, 2, sampling), [together[i] for i in range(16) if i % 4 < 2]
    )


def test_fixed_decoding_repeats_few_shapes_at_the_same_addresses(
    policy: Policy, mixed_prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes: set[StepShape] = set()
    addresses: set[tuple[int, ...]] = set()
    step = Slots.step

    def watched(self: Slots, shape: StepShape) -> None:
        assert len(self.rows) <= shape.slots
        shapes.add(shape)
        addresses.add(tuple(x.data_ptr() for x in (self.grid, self.place, self.token, self.row, self.cache.keys[0])))
        step(self, shape)

    monkeypatch.setattr(Slots, "step", watched)
    sampling = Sampling(40, seed=5)
    end_often(policy, mixed_prompts, sampling)
    sample(NativeEngine(slots=8), policy, mixed_prompts, 4, sampling)
    assert len(addresses) == 1
    assert {shape.slots for shape in shapes} <= {1, 2, 4, 8}
    assert {shape.span for shape in shapes} <= {5, 10, 20, 40}
    assert {shape.group for shape in shapes} == {4}
    assert {shape.prompts for shape in shapes} <= {1, 2, 4}


def test_prompts_that_wait_or_are_done_make_no_step_dearer(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    live: list[int] = []
    read: list[int] = []
    step = Slots.step

    def watched(self: Slots, shape: StepShape) -> None:
        live.append(len({self.table.prompt_of_row[row] for row in self.rows}))
        read.append(shape.prompts)
        step(self, shape)

    prompts = [make_prompt(f"{number}", number % 2, 1 + number) for number in range(8)]
    sampling = Sampling(40, seed=5)
    theirs = end_often(policy, prompts, sampling)
    monkeypatch.setattr(Slots, "step", watched)
    # all eight are held
    assert_same(sample(NativeEngine(slots=4), policy, prompts, 4, sampling), theirs)
    assert max(read) <= 4
    assert min(read) == 1
    assert all(count <= size < 2 * count for count, size in zip(live, read, strict=True))


def test_compact_decoding_holds_nothing_that_is_done(
    policy: Policy, mixed_prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    held, step = [], Slots.step

    def watched(self: Slots, shape: StepShape) -> None:
        groups = Counter(self.table.prompt_of_row[row] for row in self.rows)
        assert shape.slots == len(self.rows)
        assert (shape.prompts, shape.group) == (len(groups), max(groups.values()))
        held.append(shape.prompts)
        step(self, shape)

    monkeypatch.setattr(Slots, "step", watched)
    sampling = Sampling(40, seed=5)
    end_often(policy, mixed_prompts, sampling)
    sample(NativeEngine(), policy, mixed_prompts, 4, sampling)
    assert held[0] == 4
    assert held[-1] == 1


def test_counters_are_exact(policy: Policy, mixed_prompts: list[Prompt]) -> None:
    sampling = Sampling(40, seed=5)
    end_often(policy, mixed_prompts, sampling)
    policy.backbone.counters = Counters()
    completions = sample(NativeEngine(), policy, mixed_prompts, 4, sampling)
    tokens = sum(len(c.token_ids) for c in completions)
    assert policy.backbone.counters.prefill_tokens == sum(len(policy.encode(p).input_ids) for p in mixed_prompts)
    assert policy.backbone.counters.images_encoded == sum(len(p.images) for p in mixed_prompts)
    # the first token of a row comes from its prompt, every other costs one step
    assert policy.backbone.counters.row_steps == tokens - len(completions)


def test_a_group_that_takes_turns_reads_its_prompt_once(policy: Policy) -> None:
    prompt = make_prompt("one", 1)
    completions = sample(NativeEngine(max_rows=3), policy, [prompt], 8, Sampling(6))
    assert len(completions) == 8
    assert policy.backbone.counters.prefill_tokens == len(policy.encode(prompt).input_ids)


def force(monkeypatch: pytest.MonkeyPatch, **how: bool) -> None:
    """Read layers in one way, whatever the device and dtype."""

    def forced(text: Any, dtype: torch.dtype, copied: bool, merged: bool) -> list[Layer]:
        return read_layers(text, dtype, **how)

    monkeypatch.setattr(lit_g2rpo.rollout.native.decoder, "read_layers", forced)


@pytest.mark.parametrize("tokens", [1, 70])
def test_reading_prompts_in_a_memory_budget_changes_nothing(
    policy: Policy, mixed_prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch, tokens: int
) -> None:
    whole = sample(NativeEngine(), policy, mixed_prompts, 2, Sampling(8))
    read: list[list[int]] = []

    def record(tower: Any, pack: list[Any]) -> Any:
        read.append([len(prompt.input_ids) for prompt in pack])
        return image_features(tower, pack)

    monkeypatch.setattr(lit_g2rpo.rollout.native.prefill, "image_features", record)
    policy.backbone.counters = Counters()
    budget = tokens * token_bytes(policy.base.config.text_config, 4) / 2**20
    assert_same(sample(NativeEngine(prefill_mib=budget), policy, mixed_prompts, 2, Sampling(8)), whole)
    lengths = [len(policy.encode(p).input_ids) for p in mixed_prompts]
    assert list(chain(*read)) == lengths
    assert all(len(pack) == 1 or sum(pack) <= tokens for pack in read)
    assert len(read) == len(lengths) if tokens == 1 else 1 < len(read) < len(lengths)
    assert policy.backbone.counters.prefill_tokens == sum(lengths)


@pytest.mark.parametrize("merged", [True, False])
def test_held_weights_equal_fused_copies(
    adapted: Policy, mixed_prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch, merged: bool
) -> None:
    copied = sample(NativeEngine(), adapted, mixed_prompts, 2, Sampling(10))
    force(monkeypatch, copied=False, merged=merged)
    assert_same(sample(NativeEngine(), adapted, mixed_prompts, 2, Sampling(10)), copied)


def test_adapters_are_merged_while_they_are_on(adapted: Policy, policy: Policy, mixed_prompts: list[Prompt]) -> None:
    adapted.train()
    sampling = Sampling(10, seed=3)
    theirs = sample(HuggingFaceEngine(), adapted, mixed_prompts, 2, sampling)
    ours = sample(NativeEngine(), adapted, mixed_prompts, 2, sampling)
    assert_same(ours, theirs)
    plain = sample(NativeEngine(), policy, mixed_prompts, 2, sampling)
    assert [c.token_ids.tolist() for c in plain] != [c.token_ids.tolist() for c in ours]
    with adapted.reference():
        assert_same(sample(NativeEngine(), adapted, mixed_prompts, 2, sampling), plain)


@pytest.mark.parametrize("copied", [True, False])
def test_projections_with_a_bias(
    policy: Policy, mixed_prompts: list[Prompt], copied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = deepcopy(policy.base.config)
    config.text_config.attention_bias = True
    biased = Policy(initial_policy(config, seed=4), policy.processor, Qwen3VL())
    biased.base.generation_config = policy.base.generation_config
    with torch.no_grad():
        for name, parameter in biased.named_parameters():
            if "language_model" in name and name.endswith("bias"):
                parameter.normal_()
    theirs = sample(HuggingFaceEngine(), biased, mixed_prompts, 2, Sampling(8))
    force(monkeypatch, copied=copied, merged=True)
    assert_same(sample(NativeEngine(), biased, mixed_prompts, 2, Sampling(8)), theirs)


def test_an_update_is_seen(policy: Policy) -> None:
    engine, prompt, weight = NativeEngine(), make_prompt("one", 1), policy.base.model.language_model.layers[1]
    before = sample(engine, policy, [prompt], 2, Sampling(8))
    parameter = weight.self_attn.k_proj.weight
    saved = parameter.detach().clone()
    try:
        with torch.no_grad():
            parameter.mul_(3)
        theirs = sample(HuggingFaceEngine(), policy, [prompt], 2, Sampling(8))
        assert_same(sample(engine, policy, [prompt], 2, Sampling(8)), theirs)
        assert not torch.equal(before[0].logprobs, theirs[0].logprobs)
    finally:
        with torch.no_grad():
            parameter.copy_(saved)


@pytest.mark.parametrize("options", [{"freeze": ["vision"]}, {"lora": LoraConfig(rank=4), "dtype": "bfloat16"}])
def test_the_policy_is_left_as_it_was(
    random_folder: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    force(monkeypatch, copied=False, merged=True)
    policy = load_policy(PolicyConfig(path=random_folder, **options)).train()
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    policy.base.model.rope_deltas = torch.tensor([[7]])
    state = {name: value.clone() for name, value in policy.state_dict().items()}
    learning = [p.requires_grad for p in policy.parameters()]
    completions = sample(NativeEngine(), policy, [make_prompt("one", 1)], 2, Sampling(5))
    assert policy.training
    assert policy.base.model.rope_deltas.tolist() == [[7]]
    assert [p.requires_grad for p in policy.parameters()] == learning
    assert all(torch.equal(value, state[name]) for name, value in policy.state_dict().items())
    # what is sampled takes part in training: tensors of inference mode could not
    assert not completions[0].logprobs.requires_grad
    assert not completions[0].logprobs.is_inference()


@pytest.mark.parametrize("lora", [None, LoraConfig(rank=4, alpha=8)], ids=["full", "lora"])
@pytest.mark.parametrize("shapes", ["exact", "static"])
@pytest.mark.parametrize("merged", [True, False])
def test_half_precision_stays_near_training(
    random_folder: str,
    mixed_prompts: list[Prompt],
    monkeypatch: pytest.MonkeyPatch,
    lora: LoraConfig | None,
    shapes: Shapes,
    merged: bool,
) -> None:
    force(monkeypatch, copied=False, merged=merged)
    policy = load_policy(PolicyConfig(path=random_folder, dtype="bfloat16", lora=lora, shapes=shapes))
    torch.manual_seed(0)
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:
            assert parameter.dtype == torch.float32
            torch.nn.init.normal_(parameter, std=0.1)
    completions = sample(NativeEngine(), policy, mixed_prompts, 8, Sampling(24))
    with torch.no_grad():
        rows = [p for p in mixed_prompts for _ in range(8)]
        logprobs, _ = policy.token_stats(rows, [c.token_ids for c in completions])
    difference = (torch.cat([c.logprobs for c in completions]) - logprobs).abs()
    assert 0 < difference.mean() < 0.01
    assert difference.max() < 0.1


def test_autocast_keeps_the_residual_stream(policy: Policy, mixed_prompts: list[Prompt]) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        completions = sample(NativeEngine(), policy, mixed_prompts, 4, Sampling(12))
    with torch.no_grad():
        rows = [p for p in mixed_prompts for _ in range(4)]
        logprobs, _ = policy.token_stats(rows, [c.token_ids for c in completions])
    difference = (torch.cat([c.logprobs for c in completions]) - logprobs).abs()
    assert 0 < difference.mean() < 0.02


def test_what_it_does_not_know_it_refuses(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    text = policy.base.model.language_model
    with monkeypatch.context() as patch:
        patch.setitem(text.config.rope_parameters, "rope_type", "dynamic")
        with pytest.raises(UserError, match=r"'native' knows no qwen3_vl with dynamic rope; use 'huggingface'"):
            sample(NativeEngine(), policy, [make_prompt("one", 1)], 2, Sampling(4))

    class Quantized(torch.nn.Linear):
        """A linear layer whose weight is not what it multiplies by."""

    layer = text.layers[0].mlp
    other = Quantized(*layer.up_proj.weight.T.shape, bias=False)
    monkeypatch.setitem(layer._modules, "up_proj", other)
    with pytest.raises(UserError, match="cannot copy the weight of a Quantized; use 'huggingface'"):
        sample(NativeEngine(), policy, [make_prompt("one", 1)], 2, Sampling(4))
    # held layers call it as it is
    x = torch.randn(3, other.in_features)
    held = read_layers(text, torch.float32, copied=False, merged=True)[0]
    torch.testing.assert_close(held.mlp(x), x + layer(text.layers[0].post_attention_layernorm(x)))
