"""After a push, vLLM writes what the trainer's own forward expects, to rounding."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.paths import WEIGHTS
from helpers.prompts import make_prompt
from safetensors.torch import save_file

from lit_g2rpo.policy.config import LoraConfig, PolicyConfig
from lit_g2rpo.policy.loading import load_policy
from lit_g2rpo.policy.policy import Policy
from lit_g2rpo.rollout.engine import Pushed, Sampling
from lit_g2rpo.rollout.vllm import weights as weights_module
from lit_g2rpo.rollout.vllm.device_transfer import PolicySource, control
from lit_g2rpo.rollout.vllm.engine import VllmEngine
from lit_g2rpo.rollout.vllm.push import chunks, named_weights
from lit_g2rpo.rollout.vllm.weights import EngineWeights

MEAN, LARGEST = 2e-6, 2e-5
"""Bounds of the gap in single precision, nats."""

STALE = 1e-3
"""Mean gap that stale weights exceed by far, nats."""

# longer than the blocks of the prefix cache, which has no others; with images
PROMPTS = [make_prompt("text", 0, 60), make_prompt("one", 1, 40), make_prompt("two", 2, 40)]


def start(policy: Policy, **options: Any) -> VllmEngine:
    engine = VllmEngine(max_rows=32, kv_gib=0.1, **options)
    engine.attach(policy)
    return engine


@pytest.fixture(scope="module")
def engine(embedded_policy: Policy) -> VllmEngine:
    return start(embedded_policy)


@pytest.fixture(autouse=True)
def _same_prompts() -> Iterator[None]:
    yield
    for prompt in PROMPTS:
        prompt.encoded = None


def gap(engine: VllmEngine) -> tuple[float, float]:
    """Mean and largest gap between the log-probabilities of sampled tokens and the trainer's for the same tokens."""
    policy = engine.policy
    engine.push()
    completions = engine.generate(PROMPTS, 4, Sampling(12, seed=5))
    rows = [prompt for prompt in PROMPTS for _ in range(4)]
    with torch.no_grad():
        ours, _ = policy.token_stats(rows, [completion.token_ids for completion in completions])
    difference = (ours.double() - torch.cat([completion.logprobs for completion in completions]).double()).abs()
    return float(difference.mean()), float(difference.max())


def assert_equal(engine: VllmEngine) -> None:
    mean, largest = gap(engine)
    print(f"gap {mean:.1e} {largest:.1e}")
    assert mean < MEAN
    assert largest < LARGEST


def shake(policy: Policy, chosen: Callable[[str], bool]) -> None:
    """Take a step, as far as an engine can tell."""
    generator = torch.Generator().manual_seed(policy.version)
    with torch.no_grad():
        for name, weight in policy.named_parameters():
            if chosen(name):
                noise = torch.randn(weight.shape, generator=generator)
                weight.add_(noise, alpha=0.1 * float(weight.std(correction=0)))
    policy.version += 1


def visual(name: str) -> bool:
    return ".visual." in name


def language(name: str) -> bool:
    return not visual(name)


def everything(name: str) -> bool:
    return True


def head(name: str) -> bool:
    return "embed_tokens" in name


@pytest.mark.parametrize("chosen", [everything, visual, language, head])
def test_the_engine_follows_the_policy(engine: VllmEngine, policy: Policy, chosen: Callable[[str], bool]) -> None:
    assert_equal(engine)
    shake(policy, chosen)
    policy.version -= 1
    assert gap(engine)[0] > STALE, "the prompts notice these weights"
    policy.version += 1
    assert_equal(engine)
    assert engine.pushed is not None
    assert engine.pushed.size == sum(weight.nbytes for _, weight in named_weights(policy))
    assert engine.llm.llm_engine.get_weight_version() == str(policy.version)


def test_weights_arrive_in_place(engine: VllmEngine, policy: Policy) -> None:
    def places(model: torch.nn.Module) -> dict[str, int]:
        return {name: weight.data_ptr() for name, weight in model.named_parameters()}

    gap(engine)
    (before,) = engine.llm.apply_model(places)
    shake(policy, everything)
    gap(engine)
    assert engine.llm.apply_model(places) == [before]


def test_nothing_is_pushed_twice_until_a_checkpoint_is_loaded(engine: VllmEngine, policy: Policy) -> None:
    gap(engine)
    gap(engine)
    assert engine.pushed == Pushed(0, 0)
    engine.attach(policy)
    gap(engine)
    assert engine.pushed.size > 10**6


@pytest.mark.parametrize("chosen", [visual, language])
def test_forgotten_caches_would_be_noticed(
    engine: VllmEngine, policy: Policy, chosen: Callable[[str], bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the prompts here would be too short, or their images too new, to test the caches."""
    assert_equal(engine)
    shake(policy, chosen)
    with monkeypatch.context() as patch:
        patch.setattr(weights_module, "forget_features", lambda llm: None)
        assert gap(engine)[0] > STALE
    weights_module.forget_features(engine.llm)
    assert_equal(engine)


def test_a_tied_head_under_one_name_would_be_noticed(
    engine: VllmEngine, policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    shake(policy, head)
    with monkeypatch.context() as patch:
        patch.setattr(
            weights_module,
            "named_weights",
            lambda policy, merged: ((n, w) for n, w in named_weights(policy, merged) if n != "lm_head.weight"),
        )
        assert gap(engine)[0] > STALE
    engine.attach(policy)
    assert_equal(engine)


def test_files_carry_the_weights_too(engine: VllmEngine, policy: Policy, tmp_path: Path) -> None:
    """What a server reads, here by the worker in this process."""
    gap(engine)
    shake(policy, everything)
    policy.version -= 1
    engine.llm.collective_rpc("start_weight_update")
    for part in chunks(named_weights(policy), mib=0.5):
        save_file(part, tmp_path / "part.safetensors")
        update = {"paths": [str(tmp_path / "part.safetensors")]}
        engine.llm.collective_rpc("update_weights", kwargs={"update_info": update})
        # what has been read stays, although layers may wait for the rest
        (tmp_path / "part.safetensors").unlink()
    engine.llm.collective_rpc("finish_weight_update")
    weights_module.forget_features(engine.llm)
    assert_equal(engine)
    assert engine.pushed == Pushed(0, 0)


def test_sleep_is_silent_on_the_cpu(engine: VllmEngine, policy: Policy, capfd: pytest.CaptureFixture[str]) -> None:
    gap(engine)
    sleepy = EngineWeights(engine.llm, sleep=2)
    sleepy.update(policy)
    capfd.readouterr()
    sleepy.rest()
    assert sleepy.update(policy) == Pushed(0, 0)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("push", ["weights", "adapters"])
def test_adapters_reach_the_engine(push: str) -> None:
    config = PolicyConfig(path=str(WEIGHTS), lora=LoraConfig(rank=4, alpha=8, vision=True))
    policy = load_policy(config).float()
    engine = start(policy, push=push)
    adapters = {name: weight for name, weight in policy.named_parameters() if ".lora_" in name}
    for std in (0.02, 0.05):
        torch.manual_seed(0)
        with torch.no_grad():
            for weight in adapters.values():
                torch.nn.init.normal_(weight, std=std)
        policy.version += 1
        assert_equal(engine)
    with policy.reference():
        assert gap(engine)[0] > STALE, "the adapters do something"
    policy.version += 1
    gap(engine)
    small = sum(weight.nbytes for weight in adapters.values())
    assert (engine.pushed.size == small) == (push == "adapters")


def test_vllms_own_senders_accept_a_policy(policy: Policy) -> None:
    from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerWeightTransferEngine as Sender

    source = PolicySource(policy)
    sent = dict(Sender._checked_iter(source, source.metadata()))
    assert sent.keys() == policy.base.state_dict().keys()


def test_a_server_is_called_with_plain_json() -> None:
    calls: list[tuple[str, Any]] = []
    client = control(lambda path, content: calls.append((path, content)))
    client.start_weight_update()
    client.update_weights({"names": ["a"], "ipc_handles": [{"gpu": (b"handle", 1)}]})
    client.finish_weight_update("3")
    assert [path for path, _ in calls] == ["/start_weight_update", "/update_weights", "/finish_weight_update"]
    assert json.loads(json.dumps(calls[1][1]))["update_info"].keys() == {"names", "ipc_handles_pickled"}
    assert calls[2][1] == {"weight_version": "3"}
