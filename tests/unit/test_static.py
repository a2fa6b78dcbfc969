"""Fixed shapes on the CPU against the shapes as they come: loss and every gradient, features, completions."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from helpers.build import data, module, trainer
from helpers.forwards import FROZEN, OBJECTIVE, assert_equal, assert_same, batch, learn, load

import lit_g2rpo.policy.fixed_shapes.vision
import lit_g2rpo.rollout.native.fixed_shapes
from lit_g2rpo.errors import UserError
from lit_g2rpo.experience import Prompt
from lit_g2rpo.objectives import G2RPO
from lit_g2rpo.policy.config import LoraConfig
from lit_g2rpo.policy.fixed_shapes.buckets import bucket
from lit_g2rpo.rollout.engine import Sampling
from lit_g2rpo.rollout.native.engine import NativeEngine

CASES = [
    pytest.param({}, id="all"),
    pytest.param({"freeze": FROZEN}, id="frozen-tower"),
    pytest.param({"freeze": FROZEN, "lora": LoraConfig(rank=4, alpha=8)}, id="lora"),
]

pytestmark = pytest.mark.usefixtures("exact_norms")


def test_a_bucket_adds_a_quarter_at_most() -> None:
    sizes = {bucket(n) for n in range(1, 4097)}
    assert sorted(sizes)[:10] == [16, 20, 24, 28, 32, 40, 48, 56, 64, 80]
    assert all(n <= bucket(n) <= 1.25 * n for n in range(16, 4097))
    assert len(sizes) == 4 * 8 + 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("options", CASES)
def test_loss_and_gradients_equal_those_of_exact_shapes(
    random_folder: str, mixed_prompts: list[Prompt], dtype: torch.dtype, options: dict[str, Any]
) -> None:
    ours, theirs = (load(random_folder, True, dtype, shapes=shapes, **options) for shapes in ("static", "exact"))
    microbatch = batch(mixed_prompts, dtype)
    assert_equal(learn(ours, microbatch), learn(theirs, microbatch), dtype)


SAMPLINGS = [
    pytest.param(Sampling(14, temperature=0), id="greedy"),
    pytest.param(Sampling(14, seed=1), id="plain"),
    pytest.param(Sampling(14, temperature=0.7, top_p=0.9, top_k=30), id="truncated"),
    pytest.param(Sampling(1), id="one-token"),
]


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_completions_equal_those_of_exact_shapes(
    random_folder: str, mixed_prompts: list[Prompt], sampling: Sampling, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lit_g2rpo.rollout.native.fixed_shapes, "PREFILL_TOKENS", 100)  # several packs
    found = []
    for shapes in ("static", "exact"):
        policy = load(random_folder, True, shapes=shapes, freeze=FROZEN)
        # every eighth token ends a completion, so that slots are filled again
        policy.base.generation_config.eos_token_id = list(range(0, policy.base.config.text_config.vocab_size, 8))
        prompts = [replace(prompt, encoded=None) for prompt in [*mixed_prompts, mixed_prompts[0]]]
        engine = NativeEngine(slots=6)
        engine.attach(policy)
        found.append(engine.generate(prompts, 4, sampling))
    assert_same(*found)
    varied = sampling.temperature and sampling.max_tokens > 1
    assert not varied or len({len(completion.token_ids) for completion in found[0]}) > 4


def test_slots_and_batches_do_not_change_completions(random_folder: str, mixed_prompts: list[Prompt]) -> None:
    policy = load(random_folder, True, shapes="static")
    found = []
    for slots, max_rows in ((64, 512), (3, 8)):
        engine = NativeEngine(slots=slots, max_rows=max_rows)
        engine.attach(policy)
        found.append(engine.generate([*mixed_prompts, mixed_prompts[1]], 4, Sampling(9)))
    assert_same(*found)


def test_features_are_encoded_once_and_equal_those_of_exact_shapes(
    random_folder: str, mixed_prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lit_g2rpo.policy.fixed_shapes.vision, "PATCHES", 100)  # several packs
    ours, theirs = (load(random_folder, True, shapes=shapes, freeze=FROZEN) for shapes in ("static", "exact"))
    copies = [replace(prompt, encoded=None) for prompt in mixed_prompts]
    ours.prepare_features([*mixed_prompts, mixed_prompts[1]])
    theirs.prepare_features(copies)
    assert ours.backbone.counters.images_encoded == sum(len(prompt.images) for prompt in mixed_prompts)
    for prompt, copy in zip(mixed_prompts, copies, strict=True):
        if not prompt.images:
            assert prompt.encoded.features is None
            continue
        torch.testing.assert_close(prompt.encoded.features.embeddings, copy.encoded.features.embeddings)
        torch.testing.assert_close(prompt.encoded.features.added, copy.encoded.features.added)


@pytest.mark.parametrize("options", [{}, {"freeze": FROZEN}])
def test_an_empty_micro_batch_gives_every_gradient(random_folder: str, options: dict[str, Any]) -> None:
    policy = load(random_folder, True, shapes="static", **options)
    loss, metrics = policy.loss(batch([], torch.float32), OBJECTIVE.token_loss)
    loss.backward()
    assert float(loss) == 0
    assert all(p.grad is not None and not p.grad.any() for p in policy.parameters() if p.requires_grad)
    assert metrics["nll"].isfinite().all()


def test_pads_and_tiles_change_no_number(random_folder: str, mixed_prompts: list[Prompt]) -> None:
    lengths = {"text": [40, 90, 130], "one": [77, 3], "two": [20], "long": [64, 64]}  # more than one tile
    microbatch = batch(mixed_prompts, torch.float32, lengths)
    ours, theirs = (load(random_folder, True, shapes=shapes, freeze=FROZEN) for shapes in ("static", "exact"))
    assert_equal(learn(ours, microbatch), learn(theirs, microbatch), torch.float32)
    count = sum(map(len, microbatch.token_ids))
    ours_metrics, metrics = (policy.loss(microbatch, OBJECTIVE.token_loss)[1] for policy in (ours, theirs))
    assert ours_metrics.keys() == metrics.keys()
    for name, values in metrics.items():
        torch.testing.assert_close(ours_metrics[name][:count], values, atol=2e-5, rtol=1e-5)
    for policy in (ours, theirs):
        policy.model.eval()
    stats = (policy.token_stats(microbatch.prompts, microbatch.token_ids) for policy in (ours, theirs))
    for our, their in zip(*stats, strict=True):
        torch.testing.assert_close(our, their, atol=2e-5, rtol=1e-5)


class Steps(pl.Callback):
    """Keep the metrics of every optimizer step."""

    def __init__(self) -> None:
        self.metrics: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        if trainer.global_step > len(self.metrics):
            self.metrics.append({name: float(value) for name, value in trainer.callback_metrics.items()})


@pytest.mark.usefixtures("varied_rewards")
@pytest.mark.parametrize("freeze", [[], FROZEN])
def test_a_run_learns_the_same_in_fixed_shapes(random_folder: str, tmp_path: Path, freeze: list[Any]) -> None:
    found = []
    for shapes in ("static", "exact"):
        run, steps = module(random_folder, shapes=shapes, freeze=freeze), Steps()
        trainer(tmp_path, 4, callbacks=[steps]).fit(run, data())
        found.append(steps.metrics)
        waste = run.policy.backbone.counters.train_padded_tokens / run.policy.backbone.counters.train_passes
        assert (waste > 0) == (shapes == "static")
    ours, theirs = found
    assert len(ours) == len(theirs) == 4
    for our, their in zip(ours, theirs, strict=True):
        assert our.keys() == their.keys()
        for name in (name for name in our if name.startswith(("train/", "rollout/"))):
            assert our[name] == pytest.approx(their[name], rel=2e-4, abs=2e-5), name


@pytest.mark.parametrize(
    ("settings", "objective", "named"),
    [
        ({"packing": False}, None, "model.policy.packing"),
        ({}, G2RPO(loss="gspo"), "model.objective.loss"),
        ({"rollout": {"engine": "huggingface"}}, None, "model.rollout.engine"),
    ],
)
def test_what_fixed_shapes_leave_out_is_refused(
    random_folder: str, tmp_path: Path, settings: dict[str, Any], objective: Any, named: str
) -> None:
    run = module(random_folder, objective, shapes="static", **settings)
    with pytest.raises(UserError, match=named):
        trainer(tmp_path, 1).fit(run, data())
