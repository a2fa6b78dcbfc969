"""vLLM in the trainer's process samples what the native engine samples."""

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from helpers.forwards import assert_same as assert_close
from helpers.prompts import make_prompt
from PIL import Image

from lit_g2rpo.errors import UserError
from lit_g2rpo.experience import Completion, Prompt
from lit_g2rpo.mini.data import MiniPrompts
from lit_g2rpo.policy.policy import Policy
from lit_g2rpo.rollout.engine import Finished, Sampling
from lit_g2rpo.rollout.native.engine import NativeEngine
from lit_g2rpo.rollout.vllm.engine import VllmEngine

# another implementation of the same layers
assert_same = partial(assert_close, atol=5e-5)

ODD = {
    "one": [(100, 70)],
    "small": [(61, 47)],
    "two": [(64, 64), (90, 33)],
    "three": [(200, 40), (64, 64), (33, 65)],
    "none": [],
}
"""Sizes of the images of a prompt, pixels."""

BYTES_PER_TOKEN = 4 * 2 * 2 * 32 * 4
"""Keys and values of the embedded policy in single precision: layers, two of them, heads, width, bytes."""


def odd_prompt(name: str, sizes: list[tuple[int, int]]) -> Prompt:
    """A prompt with images of noise."""
    prompt = make_prompt(name, len(sizes), 2)
    generator = torch.Generator().manual_seed(len(name))
    for index, (width, height) in enumerate(sizes):
        pixels = torch.randint(0, 256, (height, width, 3), generator=generator, dtype=torch.uint8)
        prompt.images[index] = Image.fromarray(pixels.numpy())
    return prompt


@pytest.fixture(scope="module")
def engine(embedded_policy: Policy) -> VllmEngine:
    engine = VllmEngine(max_rows=64, kv_gib=0.1)
    engine.attach(embedded_policy)
    return engine


def sample(
    engine: VllmEngine, prompts: list[Prompt], size: int, sampling: Sampling, finished: Finished | None = None
) -> list[Completion]:
    engine.push()
    return engine.generate(prompts, size, sampling, finished)


def native(policy: Policy, prompts: list[Prompt], size: int, sampling: Sampling) -> list[Completion]:
    engine = NativeEngine()
    engine.attach(policy)
    return engine.generate(prompts, size, sampling)


@pytest.fixture
def odd_prompts() -> list[Prompt]:
    prompts = [odd_prompt(name, sizes) for name, sizes in ODD.items()]
    # the same images again, in another prompt and twice in one
    repeated = odd_prompt("repeated", ODD["two"] * 2)
    repeated.images[2:] = repeated.images[:2]
    return [*prompts, repeated]


@pytest.mark.parametrize(
    "sampling",
    [
        pytest.param(Sampling(24, seed=1), id="plain"),
        pytest.param(Sampling(24, temperature=0), id="greedy"),
        pytest.param(Sampling(24, temperature=0.7, seed=2, rollout=3), id="cold"),
        pytest.param(Sampling(24, temperature=1.3, top_p=0.9, top_k=30, wave=1), id="truncated"),
        pytest.param(Sampling(1), id="one-token"),
    ],
)
def test_completions_are_those_of_the_native_engine(
    engine: VllmEngine, policy: Policy, odd_prompts: list[Prompt], sampling: Sampling
) -> None:
    assert_same(sample(engine, odd_prompts, 4, sampling), native(policy, odd_prompts, 4, sampling))


def test_statistics_are_those_of_the_forward_of_training(
    engine: VllmEngine, policy: Policy, odd_prompts: list[Prompt]
) -> None:
    policy.temperature = 0.7
    completions = sample(engine, odd_prompts, 4, Sampling(24, temperature=0.7))
    rows = [prompt for prompt in odd_prompts for _ in range(4)]
    with torch.no_grad():
        logprobs, entropy = policy.token_stats(rows, [completion.token_ids for completion in completions])
    for ours, theirs in ((logprobs, "logprobs"), (entropy, "entropy")):
        gaps = (ours - torch.cat([getattr(completion, theirs) for completion in completions])).abs()
        assert gaps.mean() < 3e-6
        assert gaps.max() < 2e-5
    assert entropy.mean() > 0.1


def mini_prompts(count: int) -> list[Prompt]:
    rows = MiniPrompts(train_per_task=8, val_per_task=1, max_completion_tokens=24)
    rows.prepare_data()
    rows.setup("fit")
    dataset = rows.train_dataset()
    return [dataset[index] for index in range(0, len(dataset), len(dataset) // count)][:count]


def test_all_completions_of_a_rollout_are_equal_in_batches_of_any_size(policy: Policy, engine: VllmEngine) -> None:
    """Rows wait for each other, and move in the batch as others end."""
    prompts, sampling = mini_prompts(18), Sampling(24, seed=3)
    expected = native(policy, prompts, 8, sampling)
    assert len(expected) == 144
    assert len({len(completion.token_ids) for completion in expected}) > 4
    assert_same(sample(engine, prompts, 8, sampling), expected)


def test_a_group_is_handed_over_as_soon_as_it_is_complete(engine: VllmEngine, policy: Policy) -> None:
    vocabulary = policy.base.config.text_config.vocab_size
    policy.base.generation_config.eos_token_id = list(range(0, vocabulary, 4))
    prompts = [make_prompt(f"p{i}", i % 3, 1 + i % 4) for i in range(12)]
    engine.push()
    steps = [0]
    told: list[tuple[int, int, list[Completion]]] = []
    inner = engine.llm.llm_engine.step

    def step() -> Any:
        steps[0] += 1
        return inner()

    engine.llm.llm_engine.step = step
    try:
        completions = sample(
            engine, prompts, 2, Sampling(30), lambda index, group: told.append((steps[0], index, group))
        )
    finally:
        engine.llm.llm_engine.step = inner
    assert_same(completions, native(policy, prompts, 2, Sampling(30)))
    assert sorted(index for _, index, _ in told) == list(range(12))
    assert len({at for at, *_ in told}) > 4, "all were handed over at once"
    for at, index, group in told:
        assert group == completions[2 * index : 2 * index + 2]
        assert at <= 1 + max(len(completion.token_ids) for completion in group) + 1


def test_a_failure_in_between_leaves_nothing_behind(engine: VllmEngine, policy: Policy) -> None:
    prompts = [make_prompt(f"p{i}", 1) for i in range(4)]

    def fail(index: int, group: list[Completion]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sample(engine, prompts, 2, Sampling(20), fail)
    assert not engine.llm.llm_engine.has_unfinished_requests()
    assert_same(sample(engine, prompts, 2, Sampling(20)), native(policy, prompts, 2, Sampling(20)))


def test_groups_that_are_known_are_not_sampled_again(engine: VllmEngine) -> None:
    prompts = [make_prompt("a", 1), make_prompt("b", 0)]
    known = sample(engine, prompts, 2, Sampling(5))
    engine.known = {"a": known[:2], "b": known[2:]}
    told: list[int] = []
    assert sample(engine, prompts, 2, Sampling(5), lambda index, _: told.append(index)) == known
    assert told == [0, 1]
    engine.known = {"a": known[:2]}
    assert_same(sample(engine, prompts, 2, Sampling(5)), known)
    engine.known = {}


def test_an_update_is_seen_and_weights_are_pushed_once(engine: VllmEngine, policy: Policy) -> None:
    prompts = [make_prompt("a", 2), make_prompt("b", 0)]
    sample(engine, prompts, 2, Sampling(8))
    before = native(policy, prompts, 2, Sampling(8))
    with torch.no_grad():
        for weight in policy.parameters():
            weight.add_(0.02 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)))
    policy.version += 1
    after = sample(engine, prompts, 2, Sampling(8))
    assert_same(after, native(policy, prompts, 2, Sampling(8)))
    assert (torch.cat([c.entropy for c in after]).mean() - torch.cat([c.entropy for c in before]).mean()).abs() > 1e-3
    assert engine.pushed is not None
    assert engine.pushed.size > 0
    sample(engine, prompts, 2, Sampling(8))
    assert engine.pushed.size == 0


def test_an_image_of_one_colour_in_another_shape_is_another_image(engine: VllmEngine, policy: Policy) -> None:
    """Their patches are equal; only the grid differs."""
    prompts = [make_prompt("wide", 1), make_prompt("high", 1)]
    prompts[0].images = [Image.new("RGB", (128, 32), (10, 200, 30))]
    prompts[1].images = [Image.new("RGB", (32, 128), (10, 200, 30))]
    assert_same(sample(engine, prompts, 2, Sampling(8)), native(policy, prompts, 2, Sampling(8)))


def test_a_prompt_without_room_for_its_completion_is_refused(engine: VllmEngine) -> None:
    with pytest.raises(
        UserError, match=r"row a: a prompt of .* tokens and a completion of 1020 are more than the 1024 tokens"
    ):
        sample(engine, [make_prompt("a", 1)], 1, Sampling(1020))


def test_the_trainers_random_state_and_threads_are_left_alone(policy: Policy) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    threads = torch.set_num_threads
    torch.manual_seed(5)
    engine = VllmEngine(max_rows=8, kv_gib=0.1)
    engine.attach(policy)
    with torch.autocast("cpu", torch.bfloat16):
        found = sample(engine, [make_prompt("a", 1)], 1, Sampling(3))
    assert str(engine.llm.model_config.dtype) == "torch.bfloat16"
    assert found[0].logprobs.dtype == torch.float32
    assert torch.equal(torch.rand(3), expected)
    assert torch.set_num_threads is threads


def test_vllms_own_draw_has_its_log_probabilities_and_the_trainers_entropies(
    policy: Policy, odd_prompts: list[Prompt]
) -> None:
    engine = VllmEngine(max_rows=64, kv_gib=0.1, draw="engine")
    engine.attach(policy)
    policy.base.generation_config.eos_token_id = [7, 30, 31, 32]
    sampling = Sampling(16, top_p=0.9)
    completions = sample(engine, odd_prompts, 4, sampling)
    rows = [prompt for prompt in odd_prompts for _ in range(4)]
    with torch.no_grad():
        logprobs, entropy = policy.token_stats(rows, [completion.token_ids for completion in completions])
    torch.testing.assert_close(torch.cat([c.logprobs for c in completions]), logprobs, atol=2e-5, rtol=0)
    torch.testing.assert_close(torch.cat([c.entropy for c in completions]), entropy, atol=1e-5, rtol=0)
    for completion in completions:
        assert not set(completion.token_ids.tolist()) & set(policy.forbidden_token_ids)
        assert completion.truncated == (int(completion.token_ids[-1]) not in [7, 30, 31, 32])
    texts = [completion.text for completion in completions]
    assert [c.text for c in sample(engine, odd_prompts, 4, sampling)] == texts
    others = [replace(sampling, seed=1), replace(sampling, rollout=1), replace(sampling, wave=1)]
    assert all([c.text for c in sample(engine, odd_prompts, 4, other)] != texts for other in others)
    with pytest.raises(UserError, match=r"draw is engine, .* temperature is 0.7; give draw: own, or temperature 1"):
        sample(engine, odd_prompts, 4, Sampling(16, temperature=0.7))
    greedy = sample(engine, odd_prompts, 1, Sampling(16, temperature=0))
    assert_same(greedy, native(policy, odd_prompts, 1, Sampling(16, temperature=0)))


def test_preempted_requests_and_cached_prefixes_change_nothing(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of ten blocks of 128 tokens: requests push each other out, and share the blocks of their prompt."""
    engine = VllmEngine(max_rows=8, kv_gib=10 * 128 * BYTES_PER_TOKEN / 2**30)
    engine.attach(policy)
    engine.push()
    scheduler = engine.llm.llm_engine.engine_core.engine_core.scheduler
    preempted, cached = [], []
    preempt, computed = scheduler._preempt_request, scheduler.kv_cache_manager.get_computed_blocks

    def watched_preempt(request: Any, *rest: Any, **options: Any) -> Any:
        preempted.append(request.request_id)
        return preempt(request, *rest, **options)

    def watched_computed(request: Any) -> Any:
        found = computed(request)
        cached.append(found[1])
        return found

    monkeypatch.setattr(scheduler, "_preempt_request", watched_preempt)
    monkeypatch.setattr(scheduler.kv_cache_manager, "get_computed_blocks", watched_computed)
    # no end token, so that every completion outgrows its blocks
    policy.base.generation_config.eos_token_id = [policy.pad_token_id]
    prompts = [make_prompt("a", 1, 30), make_prompt("b", 2, 28)]
    assert all(128 < len(policy.encode(prompt).input_ids) < 250 for prompt in prompts)
    completions = engine.generate(prompts, 4, Sampling(130, seed=5))
    assert preempted
    assert max(cached) >= 128
    assert_same(completions, native(policy, prompts, 4, Sampling(130, seed=5)))
