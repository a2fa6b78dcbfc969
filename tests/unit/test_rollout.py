"""The Hugging Face engine and the one that reads demonstrations; engines by name or import path."""

from typing import Any, ClassVar

import pytest
import torch
from helpers.prompts import make_prompt
from transformers import GenerationConfig

from lit_g2rpo.errors import UserError
from lit_g2rpo.experience import Completion, Prompt
from lit_g2rpo.policy.config import PolicyConfig
from lit_g2rpo.policy.loading import load_policy
from lit_g2rpo.policy.policy import Policy
from lit_g2rpo.registry import lookup
from lit_g2rpo.rollout.config import RolloutConfig
from lit_g2rpo.rollout.demonstrations import DemonstrationEngine
from lit_g2rpo.rollout.engine import Finished, RolloutEngine, Sampling, announce
from lit_g2rpo.rollout.engines import ENGINES, build_engine, build_sampler
from lit_g2rpo.rollout.huggingface import HuggingFaceEngine
from lit_g2rpo.rollout.native.engine import NativeEngine


@pytest.fixture(scope="module")
def policy(random_folder: str) -> Policy:
    return load_policy(PolicyConfig(path=random_folder))


def engine_on(policy: Policy, max_rows: int = 512) -> HuggingFaceEngine:
    engine = HuggingFaceEngine(max_rows)
    engine.attach(policy)
    return engine


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_equal_a_teacher_forced_forward(
    policy: Policy, mixed_prompts: list[Prompt], temperature: float
) -> None:
    completions = engine_on(policy).generate(mixed_prompts, 3, Sampling(12, temperature))
    policy.temperature = temperature
    rows = [p for p in mixed_prompts for _ in range(3)]
    with torch.no_grad():
        logprobs, entropy = policy.token_stats(rows, [c.token_ids for c in completions])
    policy.temperature = 1.0
    torch.testing.assert_close(torch.cat([c.logprobs for c in completions]), logprobs, atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.cat([c.entropy for c in completions]), entropy, atol=1e-5, rtol=0)


def test_completions_do_not_depend_on_the_batch(policy: Policy, mixed_prompts: list[Prompt]) -> None:
    sampling = Sampling(10, seed=5, rollout=2)
    together = engine_on(policy).generate(mixed_prompts, 4, sampling)
    split = engine_on(policy, max_rows=3).generate(mixed_prompts, 4, sampling)
    alone = [c for p in reversed(mixed_prompts) for c in reversed(engine_on(policy).generate([p], 4, sampling))]
    for a, b, c in zip(together, split, reversed(alone), strict=True):
        assert a.token_ids.tolist() == b.token_ids.tolist() == c.token_ids.tolist()


def test_text_only_prompts_after_images_keep_their_positions(policy: Policy) -> None:
    engine, text = engine_on(policy), make_prompt("text", 0)
    fresh = engine.generate([text], 2, Sampling(8, seed=1))
    engine.generate([make_prompt("one", 2)], 2, Sampling(8, seed=1))
    again = engine.generate([text], 2, Sampling(8, seed=1))
    assert [c.token_ids.tolist() for c in fresh] == [c.token_ids.tolist() for c in again]
    torch.testing.assert_close(fresh[0].logprobs, again[0].logprobs)


def test_greedy_equals_generate_of_the_model(policy: Policy) -> None:
    prompt = make_prompt("one", 1)
    ours = engine_on(policy).generate([prompt], 1, Sampling(10, temperature=0))[0]
    encoded = policy.encode(prompt)
    theirs = policy.base.generate(
        input_ids=encoded.input_ids[None],
        attention_mask=torch.ones_like(encoded.input_ids[None]),
        mm_token_type_ids=encoded.token_types[None],
        pixel_values=encoded.pixel_values,
        image_grid_thw=encoded.image_grid,
        max_new_tokens=10,
        do_sample=False,
        suppress_tokens=policy.forbidden_token_ids,
    )[0, len(encoded.input_ids) :]
    assert ours.token_ids.tolist() == theirs.tolist()


def test_the_checkpoints_own_way_of_sampling_is_not_ours(policy: Policy) -> None:
    engine, prompt, sampling = engine_on(policy), make_prompt("one", 1), Sampling(12, seed=2)
    plain = engine.generate([prompt], 4, sampling)
    own = policy.base.generation_config
    policy.base.generation_config = GenerationConfig(
        **(own.to_dict() | {"do_sample": True, "temperature": 0.1, "top_k": 1, "repetition_penalty": 3.0})
    )
    try:
        again = engine.generate([prompt], 4, sampling)
    finally:
        policy.base.generation_config = own
    assert [c.token_ids.tolist() for c in plain] == [c.token_ids.tolist() for c in again]
    torch.testing.assert_close(torch.cat([c.logprobs for c in plain]), torch.cat([c.logprobs for c in again]))


def test_vision_tokens_are_never_sampled(policy: Policy) -> None:
    embedding = policy.base.get_input_embeddings().weight
    saved = embedding.detach().clone()
    try:
        with torch.no_grad():  # tied to the head: these four rows now win every arg-max
            embedding[policy.forbidden_token_ids] = 50 * saved[100]
        for temperature in (0.0, 1.0):
            completions = engine_on(policy).generate([make_prompt("one", 1)], 8, Sampling(10, temperature))
            drawn = torch.cat([c.token_ids for c in completions])
            assert not torch.isin(drawn, torch.tensor(policy.forbidden_token_ids)).any()
    finally:
        with torch.no_grad():
            embedding.copy_(saved)


def test_demonstrations_are_read_with_their_end_token(policy: Policy) -> None:
    engine = DemonstrationEngine()
    engine.attach(policy)
    completion = engine.generate([make_prompt("one", 1)], 1, Sampling(40))[0]
    assert completion.text == "<thinking>a</thinking><answer>12</answer>"
    assert policy.decode(completion.token_ids) == completion.text
    assert completion.token_ids[-1].item() in policy.eos_token_ids
    missing = make_prompt("none", 1)
    missing.demonstration = None
    with pytest.raises(UserError, match="row none has no demonstration"):
        engine.generate([missing], 1, Sampling(40))
    with pytest.raises(UserError, match="max_completion_tokens allows 3"):
        engine.generate([make_prompt("one", 1)], 1, Sampling(3))


def test_engines_by_name() -> None:
    native = build_engine(RolloutConfig(max_rows=7, slots=3))
    assert isinstance(native, NativeEngine)
    assert (native.max_rows, native.slots) == (7, 3)
    assert isinstance(build_engine(RolloutConfig(engine="huggingface")), HuggingFaceEngine)
    assert isinstance(build_engine(RolloutConfig(engine="demonstrations")), DemonstrationEngine)
    assert build_sampler(native, RolloutConfig()) is native
    assert isinstance(build_sampler(DemonstrationEngine(), RolloutConfig()), NativeEngine)


class Echo(RolloutEngine):
    """An engine from outside: it writes one text for every prompt."""

    samples: ClassVar[bool] = False

    def __init__(self, max_rows: int, text: str, *, times: int = 1) -> None:
        self.max_rows, self.text = max_rows, text * times

    def generate(
        self, prompts: list[Prompt], group_size: int, sampling: Sampling, finished: Finished | None = None
    ) -> list[Completion]:
        ids = torch.tensor(self.policy.processor.tokenizer.encode(self.text, add_special_tokens=False))
        zeros = torch.zeros(len(ids))
        completions = [Completion(ids, zeros, zeros, self.text, False) for _ in range(len(prompts) * group_size)]
        announce(completions, group_size, finished)
        return completions


ECHO = f"{__name__}.Echo"


def test_an_engine_from_outside_has_its_options_and_the_keys_of_the_rollout(policy: Policy) -> None:
    engine = build_engine(RolloutConfig(engine=ECHO, max_rows=7, engine_options={"text": "12", "times": 2}))
    assert isinstance(engine, Echo)
    assert (engine.max_rows, engine.text) == (7, "1212")
    engine.attach(policy)
    told: list[int] = []
    completions = engine.generate([make_prompt("one", 1)], 2, Sampling(8), lambda index, group: told.append(index))
    assert [completion.text for completion in completions] == ["1212", "1212"]
    assert told == [0]


def test_what_an_engine_says_of_itself_decides_who_evaluates() -> None:
    kinds = {name: lookup(name, ENGINES, "engine") for name in ENGINES}
    said = {name: (kind.samples, kind.fixed_shapes) for name, kind in kinds.items()}
    assert said == {
        "native": (True, True),
        "huggingface": (True, False),
        "demonstrations": (False, True),
        "vllm": (True, False),
        "vllm_server": (True, False),
    }
    config = RolloutConfig(engine=ECHO, slots=3, engine_options={"text": "12"})
    sampler = build_sampler(build_engine(config), config)
    assert isinstance(sampler, NativeEngine)
    assert sampler.slots == 3
    assert not Echo.fixed_shapes


@pytest.mark.parametrize(
    ("engine", "options", "message"),
    [
        (
            "natve",
            {},
            "did you mean native\\? Known: native, huggingface, demonstrations, vllm, vllm_server; or give",
        ),
        ("sglang", {}, "known: native, huggingface, demonstrations, vllm, vllm_server; or give"),
        (f"{__name__}.Policy", {}, "is no class of rollout.engine.RolloutEngine"),
        (f"{__name__}.make_prompt", {}, "is no class of rollout.engine.RolloutEngine"),
        ("native", {"text": "12"}, "options has 'text'; known: none"),
        ("native", {"slots": 3}, "options has 'slots'; known: none"),
        (ECHO, {"tetx": "12"}, "options has 'tetx'; known: text, times"),
        (ECHO, {}, "options has no 'text', which is required"),
    ],
)
def test_what_is_no_engine_or_not_its_option_is_refused(engine: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"model.rollout.engine.*{message}"):
        build_engine(RolloutConfig(engine=engine, engine_options=options))
