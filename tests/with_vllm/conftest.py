"""The folder is the mark; its tests need vLLM, in an environment that ``tests/vllm.sh`` makes."""

import importlib.util
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import torch
from helpers.paths import WEIGHTS

from lit_g2rpo.policy.config import PolicyConfig
from lit_g2rpo.policy.loading import load_policy
from lit_g2rpo.policy.policy import Policy


def pytest_itemcollected(item: pytest.Item) -> None:
    item.add_marker("vllm")
    if not _installed():
        item.add_marker(pytest.mark.skip(reason="needs vllm: tests/vllm.sh"))


@cache
def _installed() -> bool:
    return importlib.util.find_spec("vllm") is not None


@pytest.fixture(scope="session")
def embedded_policy() -> Policy:
    """The embedded policy, in single precision."""
    return load_policy(PolicyConfig(path=str(WEIGHTS))).float()


@pytest.fixture
def policy(embedded_policy: Policy) -> Iterator[Policy]:
    """The policy, whose end tokens, weights and temperature a test may change."""
    ends, version = embedded_policy.base.generation_config.eos_token_id, embedded_policy.version
    state: dict[str, Any] = {name: w.clone() for name, w in embedded_policy.state_dict().items()}
    yield embedded_policy
    embedded_policy.base.generation_config.eos_token_id = ends
    embedded_policy.temperature = 1.0
    with torch.no_grad():
        for name, weight in embedded_policy.state_dict().items():
            weight.copy_(state[name])
    embedded_policy.version = version + 1000
