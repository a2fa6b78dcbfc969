"""Two and four real gloo processes give the loss, gradients and advantages of one."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from helpers.build import varied_score
from helpers.ddp_run import run
from helpers.paths import HELPERS
from helpers.processes import Commands

import lit_g2rpo.rewards.running.scorer


class Found(NamedTuple):
    """What a run wrote."""

    steps: list[dict[str, Any]]
    gradients: list[dict[str, torch.Tensor]]
    weights: dict[str, torch.Tensor]
    validation: dict[str, float]


def read(out: Path) -> Found:
    steps, validation = (json.loads((out / f"{name}.json").read_text()) for name in ("steps", "validation"))
    return Found(steps, **torch.load(out / "tensors.pt"), validation=validation)


@pytest.fixture(scope="module")
def two(random_folder: str, tmp_path_factory: pytest.TempPathFactory, shared_commands: Commands) -> dict[str, Found]:
    """Every kind of run, one after the other in the same two processes."""
    kinds, out = ("mini", "mixed", "neuron", "uneven"), tmp_path_factory.mktemp("two")
    shared_commands.python(HELPERS / "ddp_run.py", random_folder, out, 2, *kinds)
    return {kind: read(out / kind) for kind in kinds}


@pytest.fixture(scope="module")
def four(random_folder: str, tmp_path_factory: pytest.TempPathFactory, shared_commands: Commands) -> Found:
    """Four processes, of which two have a prompt more than the others."""
    out = tmp_path_factory.mktemp("four")
    shared_commands.python(HELPERS / "ddp_run.py", random_folder, out, 4, "uneven")
    return read(out / "uneven")


@pytest.fixture(scope="module")
def one(random_folder: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Found]:
    """The same here, on the stock path."""
    out = tmp_path_factory.mktemp("one")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lit_g2rpo.rewards.running.scorer, "score", varied_score)
        kinds = ("mini", "mixed", "uneven")
        for kind in kinds:
            run(random_folder, out / kind, 1, kind)
    return {kind: read(out / kind) for kind in kinds}


@pytest.mark.parametrize("kind", ["mini", "mixed", "uneven"])
def test_two_processes_learn_what_one_learns(one: dict[str, Found], two: dict[str, Found], kind: str) -> None:
    """``mixed``: one rank never sees an image and has an empty micro-batch in every optimizer step."""
    alone, both = one[kind], two[kind]
    same_learning(alone, both)
    assert alone.validation["rows"] == {"mini": 30, "mixed": 0, "uneven": 12}[kind]


def test_four_processes_with_uneven_shares_learn_what_one_learns(one: dict[str, Found], four: Found) -> None:
    same_learning(one["uneven"], four)
    assert len(four.steps) == 4
    assert four.steps[0]["advantages"] != four.steps[2]["advantages"], "two rollouts"


def same_learning(alone: Found, both: Found) -> None:
    """Hold a run to that of one process: losses, advantages, gradients, weights and validation."""
    assert len(alone.steps) == len(both.steps) > 1
    for a, b in zip(alone.steps, both.steps, strict=True):
        torch.testing.assert_close(torch.tensor(a["advantages"]), torch.tensor(b["advantages"]))
        assert torch.tensor(a["advantages"]).abs().max() > 0.5
        assert a["tokens"] == b["tokens"]
        assert a["reward"] == pytest.approx(b["reward"], abs=1e-9)
        assert a["loss"] == pytest.approx(b["loss"], abs=2e-6)
    for a, b in zip(alone.gradients, both.gradients, strict=True):
        scale = max(g.abs().max() for g in a.values())
        assert scale > 1e-3
        for name in a:
            assert (a[name] - b[name]).abs().max() < 1e-4 * scale, name
    assert alone.validation == pytest.approx(both.validation, abs=1e-6)
    # AdamW's first steps divide by the gradient's own size: where it is near 0, its rounding decides the direction.
    moved = torch.cat([(alone.weights[n] - both.weights[n]).flatten().abs() for n in alone.weights])
    assert moved.quantile(0.99) < 1e-5


def test_two_processes_on_neurons_path_learn_what_one_learns_on_the_stock_one(
    one: dict[str, Found], two: dict[str, Found]
) -> None:
    alone, both = one["mini"], two["neuron"]
    assert len(alone.steps) == len(both.steps) > 1
    for a, b in zip(alone.steps, both.steps, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=2e-6)
        assert a["tokens"] == b["tokens"]
    scale = max(g.abs().max() for g in alone.gradients[0].values())
    assert scale > 1e-3
    for name, gradient in alone.gradients[0].items():
        assert (gradient - both.gradients[0][name]).abs().max() < 1e-4 * scale, name
