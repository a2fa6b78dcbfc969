"""The order in which an engine on a GPU sleeps, wakes and takes weights, with vLLM's calls written down."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lit_g2rpo.rollout.engine import Pushed
from lit_g2rpo.rollout.vllm import weights as weights_module
from lit_g2rpo.rollout.vllm.weights import EngineWeights

UPDATE = ["start_weight_update", "update_weights", "finish_weight_update", "set_weight_version"]
RESETS = ["reset_prefix_cache", "reset_encoder_cache", "reset_mm_cache"]


class WrittenDown:
    """Stands for ``vllm.LLM`` and its engine on a device."""

    def __init__(self, device_type: str) -> None:
        self.calls: list[Any] = []
        self.vllm_config = SimpleNamespace(device_config=SimpleNamespace(device_type=device_type))
        self.llm_engine = self

    def collective_rpc(self, method: str, kwargs: dict[str, Any] | None = None) -> None:
        self.calls.append(method)
        for _ in (kwargs or {}).get("update_info", {}).get("weights", ()):
            pass

    def sleep(self, level: int) -> None:
        self.calls.append(f"sleep {level}")

    def wake_up(self, tags: list[str]) -> None:
        self.calls.append(f"wake {' '.join(tags)}")

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: self.calls.append(name)

    def take(self) -> list[Any]:
        calls, self.calls = self.calls, []
        return calls


@pytest.fixture
def policy(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(
        weights_module, "named_weights", lambda policy, merged: [("a", torch.zeros(3)), ("b", torch.zeros(2))]
    )
    return SimpleNamespace(version=0, device=torch.device("cuda", 0))


@pytest.mark.parametrize("level", [1, 2])
def test_an_engine_on_a_gpu_sleeps_between_rollouts(policy: Any, level: int) -> None:
    llm = WrittenDown("cuda")
    weights = EngineWeights(llm, sleep=level)
    assert llm.take() == ["init_weight_transfer_engine"]
    assert weights.update(policy).size == 20
    assert llm.take() == UPDATE + RESETS
    weights.rest()
    weights.rest()
    assert llm.take() == [f"sleep {level}"]
    policy.version += 1
    weights.update(policy)
    # room for the cache only when the weights have been loaded
    assert llm.take() == ["wake weights", *UPDATE, "wake kv_cache", *RESETS]
    weights.rest()
    llm.take()
    # at level 2 the weights are gone, although the policy's have not changed
    weights.update(policy)
    assert llm.take() == [
        "wake weights",
        *(UPDATE if level == 2 else []),
        "wake kv_cache",
        *(RESETS if level == 2 else []),
    ]


@pytest.mark.parametrize(("device", "level"), [("cpu", 2), ("cuda", 0)])
def test_an_engine_stays_awake(policy: Any, device: str, level: int) -> None:
    llm = WrittenDown(device)
    weights = EngineWeights(llm, sleep=level)
    weights.update(policy)
    llm.take()
    weights.rest()
    assert weights.update(policy) == Pushed()
    assert llm.take() == []


def test_a_push_that_failed_is_made_again(policy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    llm = WrittenDown("cpu")
    weights = EngineWeights(llm)
    weights.update(policy)
    policy.version += 1
    with monkeypatch.context() as patch:
        patch.setattr(llm, "set_weight_version", lambda version: 1 / 0, raising=False)
        with pytest.raises(ZeroDivisionError):
            weights.update(policy)
    policy.version -= 1
    llm.take()
    weights.update(policy)
    assert llm.take() == UPDATE + RESETS, "although this version was the last that arrived whole"
