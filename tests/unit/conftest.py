"""A unit test starts no process: an interpreter that imports torch costs more than most of them together."""

import multiprocessing.process
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import matplotlib.font_manager  # noqa: F401  # it looks for fonts by processes, once, as it is imported
import pytest
import torch
from torch import Tensor

# DeepSpeed asks for it as it is imported; asked once, it is remembered
platform.processor()


def _callers() -> Iterator[str]:
    frame = sys._getframe()
    while frame := frame.f_back:
        yield frame.f_globals["__name__"]


@pytest.fixture(autouse=True)
def _no_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    started: list[Any] = []
    popen = subprocess.Popen.__init__

    def refuse(*call: Any, **options: Any) -> None:
        # jsonargparse looks for stubs once, by a bare interpreter
        if "typeshed_client.finder" in _callers():
            return popen(*call, **options)
        started.append(call[1:] or call)
        raise AssertionError("a unit test starts no process; move it to tests/processes")

    monkeypatch.setattr(subprocess.Popen, "__init__", refuse)
    monkeypatch.setattr(multiprocessing.process.BaseProcess, "start", refuse)
    monkeypatch.setattr(os, "fork", refuse)
    yield
    # the code under test may have caught it
    assert not started


@pytest.fixture
def exact_norms(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model's own norms round to single precision even in a model of double precision."""
    from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextRMSNorm

    def forward(self: Qwen3VLTextRMSNorm, hidden_states: Tensor) -> Tensor:
        return torch.nn.functional.rms_norm(hidden_states, self.weight.shape, self.weight, self.variance_epsilon)

    monkeypatch.setattr(Qwen3VLTextRMSNorm, "forward", forward)
