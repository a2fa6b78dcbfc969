"""Rollouts and updates on a CUDA device that computes nothing: no tensor is left behind, and the host rarely waits."""

import json
import os
import shutil
import sysconfig
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.paths import HELPERS
from helpers.processes import Commands

CASES = [
    "float32",
    "bfloat16",
    "mixed precision",
    "adapters",
    "adapters on bfloat16",
    "frozen tower",
    "padded rows",
]
MOST = {
    "features": 0,
    # whether a row ended with its first token, and groups that did
    "prefill": 2,
    # which rows are done, and their groups
    "decoding turn": 2,
    # a captured step cannot wait at all
    "captured step": 0,
    # the log-probabilities of each micro-batch
    "log-probabilities": 8,
    "cut": 0,
    "micro-batch": 0,
    # the sums of metrics, the largest gap, and the norm of the gradient
    "optimizer step": 3,
}
"""How often the host may wait for the device in each run of a part."""
TO_HOST = MOST | {"features": 12}
"""The same if features are kept on the host, three tensors of each of four prompts."""
MODELS_OWN = ("transformers/", "elsewhere")
"""Lines that wait in padded rows, where the model's own code runs, and its backward without lines."""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory, shared_commands: Commands) -> Path:
    """The device, which torch's build for CPUs loads."""
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    root = Path(torch.__file__).parent
    if compiler is None or torch.version.cuda is not None or not (root / "include").is_dir():
        pytest.skip("needs a C++ compiler, and torch's build for CPUs")
    out = tmp_path_factory.mktemp("device") / f"fake_cuda{sysconfig.get_config_var('SHLIB_SUFFIX')}"
    found = [f"-I{root / 'include'}", f"-L{root / 'lib'}", f"-Wl,-rpath,{root / 'lib'}", "-Wl,--no-as-needed"]
    options = ["-O0", "-std=c++20", "-fPIC", "-shared", *found, "-lc10", "-ltorch_cpu"]
    done = shared_commands.run(compiler, HELPERS / "fake_cuda.cpp", "-o", out, *options)
    assert done.returncode == 0, done.stderr[-3000:]
    return out


@pytest.fixture(scope="module")
def small_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random mini policy with two layers, since the device is slow."""
    from lit_g2rpo.mini.policy import build_processor, initial_policy, mini_config

    folder = tmp_path_factory.mktemp("small")
    processor = build_processor()
    config = mini_config(processor.tokenizer)
    config.text_config.num_hidden_layers = 2
    initial_policy(config, seed=3).save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def results(library: Path, small_folder: str, shared_commands: Commands) -> dict[str, Any]:
    """What happened in each case: an error, and the lines that waited in each run of each part."""
    lines = shared_commands.python(HELPERS / "device_free_run.py", library, small_folder).splitlines()
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def check(result: dict[str, Any], most: dict[str, int] = MOST, allowed: tuple[str, ...] = ()) -> None:
    """Fail at an error, or if a part waited too often, not counting lines that start with what is allowed."""
    assert result["error"] is None, result["error"]
    assert result["waits"].keys() <= MOST.keys()
    for part, runs in result["waits"].items():
        for number, lines in enumerate(runs):
            waits = [line for line in lines if not line.startswith(allowed)]
            assert len(waits) <= most[part], "\n".join([f"{part} {number} waited {len(waits)} times:", *waits])


@pytest.mark.parametrize("case", CASES)
def test_nothing_is_on_the_wrong_device_and_the_host_rarely_waits(results: dict[str, Any], case: str) -> None:
    most = TO_HOST if case == "adapters on bfloat16" else MOST
    check(results[case], most, MODELS_OWN if case == "padded rows" else ())
    assert results[case]["waits"].keys() >= MOST.keys() - {"captured step"}


def test_the_cases_decode_many_turns(results: dict[str, Any]) -> None:
    waits = results["float32"]["waits"]
    assert len(waits["decoding turn"]) > 3
    assert len(waits["captured step"]) > 3 * len(waits["decoding turn"])
    # rows that end are read back, so a device that misses waits would show none
    assert all(waits["decoding turn"])


@pytest.mark.parametrize("case", ["mixed precision", "adapters"])
def test_no_token_casts_a_weight(results: dict[str, Any], case: str) -> None:
    casts = results[case]["casts"]
    assert casts["captured step"] == []
    assert casts["micro-batch"], "training casts them in every pass"


def test_every_case_is_tested(results: dict[str, Any]) -> None:
    assert set(CASES) == {name for name in results if "planted" not in name}


def test_a_tensor_on_the_wrong_device_is_found(results: dict[str, Any]) -> None:
    with pytest.raises(AssertionError, match=r"(?s)packing.py.*at least two devices, cuda:0 and cpu"):
        check(results["planted mismatch"])


def test_a_wait_is_found_by_its_line(results: dict[str, Any]) -> None:
    with pytest.raises(AssertionError, match=r"waited \d+ times:\n.*device_free_run.py:\d+ "):
        check(results["planted wait"])
