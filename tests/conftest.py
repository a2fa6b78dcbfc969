"""A random mini policy on disk, and prompts of every shape."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
# DeepSpeed would take a GPU that is there, and the tests are for the CPU
os.environ.setdefault("DS_ACCELERATOR", "cpu")

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from helpers.prompts import make_prompt
from hypothesis import settings

from lit_g2rpo.experience import Prompt

pytest_plugins = ["helpers.processes"]

TESTS = Path(__file__).resolve().parent
# processes that tests start find the checkout and the helpers
os.environ["PYTHONPATH"] = os.pathsep.join([str(TESTS.parent), str(TESTS), os.environ.get("PYTHONPATH", "")])

CURRENT = "PYTEST_CURRENT_TEST"
"""The variable that pytest itself changes."""

# How long a case takes says more about the machine than about the code.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _in_tmp(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run every test in its own folder, so that none leaves files in the checkout or in the user's cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="session")
def first_environment() -> dict[str, str]:
    """The environment before the first test."""
    return {name: value for name, value in os.environ.items() if name != CURRENT}


@pytest.fixture(autouse=True)
def _restored_environment(first_environment: dict[str, str]) -> Iterator[None]:
    """Undo changes to the environment, where a run leaves its seed, its rank and its process."""
    yield
    for name in os.environ.keys() - first_environment.keys() - {CURRENT}:
        del os.environ[name]
    os.environ.update(first_environment)


@pytest.fixture(scope="session")
def random_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A mini policy with random weights, in single precision, as a Hugging Face folder."""
    from lit_g2rpo.mini.policy import build_processor, initial_policy, mini_config

    folder = tmp_path_factory.mktemp("policy")
    processor = build_processor()
    initial_policy(mini_config(processor.tokenizer), seed=3).save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def mixed_prompts() -> list[Prompt]:
    """Text only, one image, two images, of different lengths."""
    return [make_prompt("text", 0, 2), make_prompt("one", 1, 5), make_prompt("two", 2, 1), make_prompt("long", 1, 9)]


@pytest.fixture
def varied_rewards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Completions of a random policy are all wrong; give them rewards that differ."""
    from helpers.build import varied_score

    import lit_g2rpo.rewards.running.scorer

    monkeypatch.setattr(lit_g2rpo.rewards.running.scorer, "score", varied_score)
