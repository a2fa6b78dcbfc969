"""Faults of a vLLM engine that raise no error: each ends the run within its rollout, saved."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.build import data, module, trainer
from helpers.paths import WEIGHTS

from lit_g2rpo.callbacks import RolloutCheckpoint
from lit_g2rpo.errors import EngineGapError
from lit_g2rpo.rollout.vllm import engine as engine_module
from lit_g2rpo.rollout.vllm import weights as weights_module
from lit_g2rpo.rollout.vllm.engine import VllmEngine

TASKS = 6


class SmallBlocks(VllmEngine):
    """vLLM with blocks so small that prompts of the embedded tasks fill one, since only full ones are cached."""

    def _settings(self) -> dict[str, Any]:
        return super()._settings() | {"block_size": 32}


@pytest.fixture(scope="module")
def engine() -> VllmEngine:
    """One engine for all runs."""
    return SmallBlocks(max_rows=64, kv_gib=0.1)


def fit(folder: Path, engine: VllmEngine, temperature: float = 1.0) -> float:
    """Two rollouts of the same prompts, in which all weights learn; return the largest gap of the second."""
    torch.manual_seed(5)
    run = module(str(WEIGHTS), rollout={"temperature": temperature, "prompts": 2 * TASKS})
    # the module attaches it to its policy
    run.engine = engine
    keeper = RolloutCheckpoint(every_rollouts=50, monitor=None, dirpath=str(folder))
    fitting = trainer(folder, 4, callbacks=[keeper], enable_checkpointing=True)
    fitting.fit(run, data(train_per_task=2, rollouts_per_epoch=2))
    return float(fitting.callback_metrics["rollout/engine_gap_max"])


def without(name: str) -> Any:
    """The cleaning after a push, but for one cache."""

    def forget(llm: Any) -> None:
        for owner, reset in (
            (llm, "reset_prefix_cache"), (llm.llm_engine, "reset_encoder_cache"), (llm, "reset_mm_cache")
        ):  # fmt: skip
            if reset != name:
                getattr(owner, reset)()

    return forget


def stale_prefixes(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(weights_module, "forget_features", without("reset_prefix_cache"))


def stale_images(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(weights_module, "forget_features", without("reset_encoder_cache"))


def half_a_tied_head(patch: pytest.MonkeyPatch) -> None:
    whole = weights_module.named_weights

    def half(*policy: Any, **options: Any) -> Any:
        return ((name, weight) for name, weight in whole(*policy, **options) if name != "lm_head.weight")

    patch.setattr(weights_module, "named_weights", half)


def other_temperature(patch: pytest.MonkeyPatch) -> None:
    asked = engine_module.own_draw
    patch.setattr(
        engine_module,
        "own_draw",
        lambda policy, sampling, *rest: asked(policy, replace(sampling, temperature=1.0), *rest),
    )


def normalized_twice(patch: pytest.MonkeyPatch) -> None:
    settings = engine_module.engine_settings
    patch.setattr(
        engine_module, "engine_settings", lambda **known: settings(**known) | {"mm_device_do_normalize": True}
    )


def test_an_engine_without_a_fault_has_no_gap(engine: VllmEngine, tmp_path: Path) -> None:
    assert 0 < fit(tmp_path, engine) < 5e-5


@pytest.mark.parametrize(
    ("fault", "rollout", "temperature"),
    [
        (stale_prefixes, 2, 1.0),
        (stale_images, 2, 1.0),
        # the head is never pushed
        (half_a_tied_head, 1, 1.0),
        (other_temperature, 1, 0.7),
        (normalized_twice, 1, 1.0),
    ],
)
def test_a_silent_fault_ends_the_run_within_its_rollout(
    engine: VllmEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Any, rollout: int, temperature: float
) -> None:
    if engine.llm is not None:
        # of earlier runs
        weights_module.forget_features(engine.llm)
    fault(monkeypatch)
    # this one is a matter of the start
    own = SmallBlocks(max_rows=64, kv_gib=0.1) if fault is normalized_twice else engine
    with pytest.raises(EngineGapError, match=rf"^rollout {rollout}: .* outlived a push, a tied head .* temperature"):
        fit(tmp_path, own, temperature)
    assert (tmp_path / "last.ckpt").exists() == (rollout == 2)
