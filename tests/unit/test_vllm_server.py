"""Rollouts on servers: the same completions as the native engine's, whatever a server does."""

import gc
import logging
from typing import Any

import pytest
import torch
from helpers.vllm_stub import GENERATE, STEPS, Stub, serving

from lit_g2rpo.errors import RolloutStopError, UserError
from lit_g2rpo.experience import Completion, Prompt
from lit_g2rpo.policy.config import PolicyConfig
from lit_g2rpo.policy.loading import load_policy
from lit_g2rpo.policy.policy import Policy
from lit_g2rpo.rollout.engine import Sampling
from lit_g2rpo.rollout.native.engine import NativeEngine
from lit_g2rpo.rollout.vllm.server.engine import VllmServerEngine

SAMPLING = Sampling(12, seed=5, rollout=3)


@pytest.fixture
def policy(random_folder: str) -> Policy:
    """A policy that is a step away from the weights that the servers start with."""
    policy = load_policy(PolicyConfig(path=random_folder))
    with torch.no_grad():
        for weight in policy.parameters():
            weight.mul_(1.01)
    policy.version = 1
    return policy


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lit_g2rpo.rollout.vllm.server.fleet.RETRY_SECONDS", 0.01)


@pytest.fixture
def stub(random_folder: str) -> Stub:
    return Stub(random_folder)


def engine_on(policy: Policy, *urls: str, patience: float = 60.0, **options: Any) -> VllmServerEngine:
    engine = VllmServerEngine(list(urls), patience=patience, **options)
    engine.attach(policy)
    return engine


def native(policy: Policy, prompts: list[Prompt], group: int = 3, sampling: Sampling = SAMPLING) -> list[Completion]:
    engine = NativeEngine()
    engine.attach(policy)
    return engine.generate(prompts, group, sampling)


def sampled(engine: VllmServerEngine, prompts: list[Prompt], group: int = 3, **options: Any) -> list[Completion]:
    engine.push()
    return engine.generate(prompts, group, SAMPLING, **options)


def assert_equal(own: list[Completion], expected: list[Completion]) -> None:
    assert len(own) == len(expected)
    for a, b in zip(own, expected, strict=True):
        assert a.token_ids.tolist() == b.token_ids.tolist()
        torch.testing.assert_close(a.logprobs, b.logprobs, atol=1e-5, rtol=0)
        torch.testing.assert_close(a.entropy, b.entropy, atol=1e-5, rtol=0)
        assert (a.text, a.truncated) == (b.text, b.truncated)


def test_a_server_samples_what_the_native_engine_samples(
    policy: Policy, stub: Stub, mixed_prompts: list[Prompt]
) -> None:
    with serving(stub) as url:
        engine, told = engine_on(policy, url), {}
        own = sampled(engine, mixed_prompts, finished=told.__setitem__)
        expected = native(policy, mixed_prompts)
        assert_equal(own, expected)
        assert sorted(told) == [0, 1, 2, 3]
        assert all(told[i] == own[3 * i : 3 * i + 3] for i in told)
        greedy = Sampling(12, temperature=0)
        assert_equal(engine.generate(mixed_prompts, 1, greedy), native(policy, mixed_prompts, 1, greedy))
    # the head, which is tied, comes in a file of its own
    assert list(dict.fromkeys(stub.paths))[: len(STEPS)] == STEPS
    assert engine.pushed is not None
    assert engine.pushed.size == sum(weight.nbytes for weight in policy.base.state_dict().values())


def test_weights_are_pushed_only_when_they_changed(policy: Policy, stub: Stub, mixed_prompts: list[Prompt]) -> None:
    with serving(stub) as url:
        engine = engine_on(policy, url)
        sampled(engine, mixed_prompts[:1])
        sampled(engine, mixed_prompts[:1])
        assert stub.paths.count("/start_weight_update") == 1
        with torch.no_grad():
            next(policy.parameters()).add_(0.1)
        policy.version += 1
        assert_equal(sampled(engine, mixed_prompts), native(policy, mixed_prompts))
        assert stub.paths.count("/start_weight_update") == 2
        engine.attach(policy)
        engine.push()
        assert stub.paths.count("/start_weight_update") == 3


def test_known_groups_are_not_sampled_again(policy: Policy, stub: Stub, mixed_prompts: list[Prompt]) -> None:
    expected = native(policy, mixed_prompts)
    with serving(stub) as url:
        engine, told = engine_on(policy, url), []
        engine.known = {"one": expected[3:6]}
        own = sampled(engine, mixed_prompts, finished=lambda index, group: told.append(index))
    assert_equal(own, expected)
    assert stub.paths.count(GENERATE) == 3
    assert sorted(told) == [0, 1, 2, 3]


def test_several_servers_share_the_prompts(policy: Policy, random_folder: str, mixed_prompts: list[Prompt]) -> None:
    first, second = Stub(random_folder), Stub(random_folder)
    with serving(first) as one, serving(second) as two:
        own = sampled(engine_on(policy, one, two), mixed_prompts)
    assert_equal(own, native(policy, mixed_prompts))
    assert first.version == second.version
    assert first.paths.count(GENERATE) + second.paths.count(GENERATE) == 4


@pytest.mark.parametrize("kind", ["500", "garbage"])
@pytest.mark.parametrize("path", [GENERATE, *STEPS])
def test_a_fault_is_healed(
    policy: Policy, stub: Stub, mixed_prompts: list[Prompt], kind: str, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    faults = [kind]
    stub.fault = lambda asked: faults.pop() if asked == path and faults else None
    with serving(stub) as url, caplog.at_level(logging.WARNING):
        own = sampled(engine_on(policy, url), mixed_prompts)
    assert_equal(own, native(policy, mixed_prompts))
    assert not faults
    if kind == "500":
        assert url in caplog.text


def test_a_server_with_other_weights_gets_the_newest(policy: Policy, stub: Stub, mixed_prompts: list[Prompt]) -> None:
    def restarted(path: str) -> None:
        if path == GENERATE and stub.paths.count(GENERATE) == 2:
            with stub.lock, torch.no_grad():
                stub.version = "default"
                for weight in stub.policy.parameters():
                    weight.mul_(1.5)

    stub.fault = restarted
    with serving(stub) as url:
        own = sampled(engine_on(policy, url), mixed_prompts)
    assert_equal(own, native(policy, mixed_prompts))
    assert stub.paths.count("/start_weight_update") == 2


def test_a_paused_server_goes_on(policy: Policy, stub: Stub, mixed_prompts: list[Prompt]) -> None:
    with serving(stub) as url:
        engine = engine_on(policy, url)
        engine.push()
        stub.paused = True
        assert_equal(engine.generate(mixed_prompts, 3, SAMPLING), native(policy, mixed_prompts))


def test_a_server_that_ends_leaves_its_prompts_to_the_others(
    policy: Policy, random_folder: str, mixed_prompts: list[Prompt]
) -> None:
    first, second = Stub(random_folder), Stub(random_folder)
    first.fault = lambda path: "stall" if path == GENERATE else None
    with serving(second) as two:
        with serving(first) as one:
            engine = engine_on(policy, one, two, patience=3.0)
            engine.push()
        assert_equal(engine.generate(mixed_prompts, 3, SAMPLING), native(policy, mixed_prompts))
        policy.version += 1
        engine.push()
        assert_equal(engine.generate(mixed_prompts, 3, SAMPLING), native(policy, mixed_prompts))


def test_a_server_that_writes_no_token_ends_the_rollout(
    policy: Policy, stub: Stub, mixed_prompts: list[Prompt]
) -> None:
    stub.fault = lambda path: "stall" if path == GENERATE else None
    with serving(stub) as url:
        engine = engine_on(policy, url, patience=1.0)
        engine.push()
        with pytest.raises(RolloutStopError, match=f"no completion for 1 s: {url}.*python -m lit_g2rpo serve"):
            engine.generate(mixed_prompts, 3, SAMPLING)


def test_a_request_that_always_fails_ends_the_rollout(policy: Policy, stub: Stub, mixed_prompts: list[Prompt]) -> None:
    stub.fault = lambda path: "500" if path == GENERATE else None
    with serving(stub) as url:
        engine = engine_on(policy, url)
        engine.push()
        with pytest.raises(RolloutStopError, match=f"failed 5 times, last at {url}"):
            engine.generate(mixed_prompts[:1], 3, SAMPLING)


def test_a_server_that_is_not_there_is_named(policy: Policy) -> None:
    engine = engine_on(policy, "http://127.0.0.1:9", patience=0.1)
    with pytest.raises(UserError, match=r"http://127.0.0.1:9 has not answered for 0.1 s \(cannot connect"):
        engine.check()


def test_weights_that_have_no_room_are_named(policy: Policy, stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with serving(stub) as url:
        engine = engine_on(policy, url)
        monkeypatch.setattr("safetensors.torch.save_file", full)
        with pytest.raises(RolloutStopError, match=r"cannot be written to .*engine_options\.folder"):
            engine.push()


def test_what_finished_raises_ends_the_rollout(policy: Policy, stub: Stub, mixed_prompts: list[Prompt]) -> None:
    def finished(index: int, group: list[Completion]) -> None:
        raise KeyboardInterrupt

    with serving(stub) as url:
        engine = engine_on(policy, url)
        with pytest.raises(KeyboardInterrupt):
            sampled(engine, mixed_prompts, finished=finished)
        assert_equal(engine.generate(mixed_prompts, 3, SAMPLING), native(policy, mixed_prompts))


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"logits_processors": None}, r"started without --logits-processors lit_g2rpo\S+; start it with python"),
        ({"logprobs_mode": "raw_logprobs"}, "without --logprobs-mode processed_logits"),
        ({"backend": None}, "without --weight-transfer-config with backend lit_g2rpo"),
        ({"mm_device_do_normalize": True}, "without --no-mm-device-do-normalize"),
        ({"enable_chunked_prefill": True}, "without --no-enable-chunked-prefill"),
    ],
)
def test_a_server_without_its_flags_is_refused(random_folder: str, settings: dict[str, Any], reason: str) -> None:
    with serving(Stub(random_folder, **settings)) as url, pytest.raises(UserError, match=f"{url} .*{reason}"):
        VllmServerEngine([url]).check()


@pytest.mark.parametrize(
    ("name", "what"), [("vocab_size", "another vocabulary"), ("num_hidden_layers", "another model")]
)
def test_a_server_of_another_model_is_refused(policy: Policy, stub: Stub, name: str, what: str) -> None:
    setattr(stub.policy.base.config.text_config, name, 7)
    with serving(stub) as url, pytest.raises(UserError, match=f"{what}: .* has text_config.{name} 7, the policy"):
        engine_on(policy, url).push()


def test_two_runs_cannot_use_one_server(policy: Policy, stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(stub) as url:
        first = engine_on(policy, url)
        first.push()
        # a second trainer in a notebook
        engine_on(policy, url).push()
        monkeypatch.setattr("lit_g2rpo.rollout.vllm.server.engine.PROCESS", "another")
        with pytest.raises(UserError, match=f"{url} is used by another run: process"):
            engine_on(policy, url).check()
        del first
        gc.collect()
        engine_on(policy, url).push()


def test_a_prompt_that_is_too_long_is_named(policy: Policy, random_folder: str, mixed_prompts: list[Prompt]) -> None:
    with serving(Stub(random_folder, max_model_len=20)) as url:
        engine = engine_on(policy, url)
        engine.push()
        with pytest.raises(UserError, match=r"row one: .* more than the servers' max_model_len 20"):
            engine.generate(mixed_prompts[1:2], 3, SAMPLING)


def test_the_key_is_asked_for_and_given(
    policy: Policy, random_folder: str, mixed_prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OURS", "secret")
    monkeypatch.setenv("OTHER", "guess")
    with serving(Stub(random_folder, api_key=["secret"])) as url:
        for variable in ("", "OTHER"):
            with pytest.raises(UserError, match=f"{url} refuses the key; model.rollout.engine_options.api_key_env"):
                VllmServerEngine([url], api_key_env=variable).check()
        own = sampled(engine_on(policy, url, api_key_env="OURS"), mixed_prompts)
    assert_equal(own, native(policy, mixed_prompts))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"urls": []}, r"urls is \[\]; give a list"),
        ({"urls": "http://a:1"}, "urls is 'http://a:1'; give a list"),
        ({"urls": ["http://a:1", "http://a:1"]}, "different addresses"),
        ({"urls": ["localhost:8000"]}, "urls has 'localhost:8000'; give an address such as http://127.0.0.1:8000"),
        ({"urls": ["http://a:1/v1"]}, "without a path"),
        ({"urls": ["http://a:x"]}, "give an address"),
        ({"urls": ["http://me:key@a:1"]}, "name the key's variable in api_key_env"),
        ({"urls": ["http://a:1"], "patience": 0}, "patience is 0; give seconds above 0"),
        ({"urls": ["http://a:1"], "folder": "/nowhere"}, "folder is '/nowhere', which is no folder here"),
        ({"urls": ["http://a:1"], "api_key_env": "NOWHERE"}, "'NOWHERE', which the environment lacks"),
    ],
)
def test_options_that_cannot_be_right_are_refused(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        VllmServerEngine(**options).check()
