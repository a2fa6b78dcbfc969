"""Groups that are known already are left out, and change no bit of the others."""

from collections.abc import Iterator
from itertools import chain, combinations

import pytest
import torch
from helpers.prompts import make_prompt

from lit_g2rpo.experience import Completion, Prompt
from lit_g2rpo.policy.config import PolicyConfig
from lit_g2rpo.policy.counters import Counters
from lit_g2rpo.policy.loading import load_policy
from lit_g2rpo.policy.policy import Policy
from lit_g2rpo.rollout.engine import RolloutEngine, Sampling
from lit_g2rpo.rollout.huggingface import HuggingFaceEngine
from lit_g2rpo.rollout.native.engine import NativeEngine

GROUP = 3
COUNT = 6


@pytest.fixture(scope="module")
def loaded(random_folder: str) -> Policy:
    policy = load_policy(PolicyConfig(path=random_folder))
    # every eighth token ends a completion, so that rows end at different steps
    policy.base.generation_config.eos_token_id = list(range(0, policy.base.config.text_config.vocab_size, 8))
    return policy


@pytest.fixture
def policy(loaded: Policy) -> Iterator[Policy]:
    loaded.backbone.counters = Counters()
    yield loaded
    loaded._shapes = "exact"


@pytest.fixture(scope="module")
def prompts() -> list[Prompt]:
    """One a batch of its own to read, for all differ in length."""
    return [make_prompt(f"p{i}", i % 3, 1 + 2 * i) for i in range(COUNT)]


ENGINES = {
    "all at once": lambda: NativeEngine(),
    "in turns of whole groups": lambda: NativeEngine(max_rows=6),
    "in turns of rows": lambda: NativeEngine(max_rows=2),
    "in few slots": lambda: NativeEngine(slots=4),
    "packs of one prompt": lambda: NativeEngine(prefill_mib=0.001, slots=2),
    "huggingface": lambda: HuggingFaceEngine(),
    "huggingface in turns": lambda: HuggingFaceEngine(max_rows=4),
}
SAMPLINGS = [Sampling(24, seed=5), Sampling(24, temperature=0), Sampling(1, seed=2)]


def drawn(engine: RolloutEngine, prompts: list[Prompt], sampling: Sampling) -> tuple[list[Completion], list[int]]:
    told: dict[int, list[Completion]] = {}

    def finished(index: int, group: list[Completion]) -> None:
        assert index not in told
        told[index] = group

    completions = engine.generate(prompts, GROUP, sampling, finished)
    assert list(chain.from_iterable(told[i] for i in range(COUNT))) == completions
    return completions, list(told)


def assert_identical(ours: list[Completion], theirs: list[Completion]) -> None:
    for a, b in zip(ours, theirs, strict=True):
        for name in ("token_ids", "logprobs", "entropy"):
            assert torch.equal(getattr(a, name), getattr(b, name)), name
        assert (a.text, a.truncated) == (b.text, b.truncated)


@pytest.mark.parametrize("name", ENGINES)
def test_the_missing_groups_are_those_of_the_whole_rollout(policy: Policy, prompts: list[Prompt], name: str) -> None:
    engine = ENGINES[name]()
    engine.attach(policy)
    subsets = [*combinations(range(COUNT), 1), *combinations(range(COUNT), 3), *combinations(range(COUNT), 5)][::3]
    for sampling in SAMPLINGS:
        engine.known = {}
        whole, _ = drawn(engine, prompts, sampling)
        if sampling.seed == 5:
            assert len({len(c.token_ids) for c in whole}) > 4
        for kept in subsets[:: 1 if sampling.seed == 5 else 4]:
            engine.known = {prompts[i].id: whole[i * GROUP : (i + 1) * GROUP] for i in kept}
            assert_identical(drawn(engine, prompts, sampling)[0], whole)


def test_fixed_shapes_too(policy: Policy, prompts: list[Prompt]) -> None:
    policy._shapes = "static"
    engine = NativeEngine(slots=4, max_rows=9)
    engine.attach(policy)
    whole, _ = drawn(engine, prompts, SAMPLINGS[0])
    engine.known = {prompts[i].id: whole[i * GROUP : (i + 1) * GROUP] for i in (0, 1, 2, 4)}
    before = policy.backbone.counters.row_steps
    assert_identical(drawn(engine, prompts, SAMPLINGS[0])[0], whole)
    assert policy.backbone.counters.row_steps - before < before


@pytest.mark.parametrize("slots", [None, 2])
def test_nothing_is_computed_for_known_groups_alone(policy: Policy, prompts: list[Prompt], slots: int | None) -> None:
    """The first groups end first where rows take turns; what remains is the work of the groups after them."""
    engine = NativeEngine(max_rows=6 if slots is None else 512, slots=slots, prefill_mib=0.001)
    engine.attach(policy)
    whole, _ = drawn(engine, prompts, SAMPLINGS[0])
    work = []
    for kept in range(COUNT + 1):
        policy.backbone.counters = Counters()
        engine.known = {prompts[i].id: whole[i * GROUP : (i + 1) * GROUP] for i in range(kept)}
        drawn(engine, prompts, SAMPLINGS[0])
        work.append((policy.backbone.counters.row_steps, policy.backbone.counters.prefill_tokens))
    lengths = [len(policy.encode(prompt).input_ids) for prompt in prompts]
    assert work[-1] == (0, 0)
    if slots is None:
        # two groups at a time are computed together or not at all, but for steps that only the known one takes
        steps = [steps for steps, _ in work]
        assert steps[0] >= steps[1] > steps[2] >= steps[3] > steps[4] >= steps[5], steps
        assert steps[0] - steps[1] < steps[1] - steps[2]
    else:
        assert [steps for steps, _ in work] == sorted({steps for steps, _ in work}, reverse=True)
        assert work[3][0] < 0.7 * work[0][0]
        assert [tokens for _, tokens in work] == [sum(lengths[kept:]) for kept in range(COUNT + 1)]
