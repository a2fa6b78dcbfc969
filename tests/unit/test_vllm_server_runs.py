"""Whole runs on servers: they learn what a run on the native engine learns, and end saved without a server."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.build import data, module, trainer
from helpers.vllm_stub import GENERATE, Stub, serving

from lit_g2rpo.callbacks import RolloutCheckpoint
from lit_g2rpo.errors import RolloutStopError
from lit_g2rpo.objectives import G2RPO

pytestmark = pytest.mark.usefixtures("varied_rewards")


def fit(folder: str, out: Path, urls: list[str] | None, checkpoint: Path | None = None, **rollout: Any) -> Any:
    own = {"engine": "vllm_server", "engine_options": {"urls": urls, "patience": 3.0}} if urls else {}
    run = module(folder, G2RPO(filtering="refill", entropy_coefficient=0.02), rollout=own | rollout)
    # without state that divides a gradient by its own size, rounding errors stay small
    run.optimizer = partial(torch.optim.SGD, lr=0.1)
    keeper = RolloutCheckpoint(every_rollouts=50, monitor=None, dirpath=str(out))
    fitted = trainer(
        out, 6, callbacks=[keeper], enable_checkpointing=True, limit_val_batches=1, val_check_interval=4, max_epochs=3
    )
    fitted.fit(run, data(), ckpt_path=checkpoint, weights_only=False)
    return run


def assert_alike(one: Any, other: Any) -> None:
    ours, theirs = one.policy.state_dict(), other.policy.state_dict()
    for name, weight in theirs.items():
        torch.testing.assert_close(ours[name], weight, atol=1e-5, rtol=0, msg=name)


@pytest.mark.parametrize("lag", [0, 1])
def test_a_run_on_a_server_learns_what_a_native_run_learns(random_folder: str, tmp_path: Path, lag: int) -> None:
    with serving(Stub(random_folder)) as url:
        own = fit(random_folder, tmp_path / "server", [url], lag=lag)
        if lag:
            assert_alike(own, fit(random_folder, tmp_path / "again", [url], lag=lag))
        else:
            assert_alike(own, fit(random_folder, tmp_path / "native", None))
    assert own.engine.pushed is not None
    assert own.evaluation_engine is own.engine


def test_a_run_whose_server_is_gone_ends_saved_and_resumes(random_folder: str, tmp_path: Path) -> None:
    straight = fit(random_folder, tmp_path / "straight", None)
    stub = Stub(random_folder)
    out = tmp_path / "server"
    with serving(stub) as url:
        stub.fault = lambda path: "500" if stub.paths.count(GENERATE) > 40 else None
        with pytest.raises(RolloutStopError, match=f"{url} .*python -m lit_g2rpo serve") as caught:
            fit(random_folder, out, [url])
    assert "continues from the checkpoint of step" in caught.value.__notes__[0]
    with serving(Stub(random_folder)) as url:
        assert_alike(fit(random_folder, out, [url], out / "last.ckpt"), straight)
