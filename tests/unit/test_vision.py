"""Images are encoded once per prompt, kept where the tower does not learn, and never mixed up between policies."""

from typing import Any

import pytest
import torch
from helpers.prompts import make_prompt

import lit_g2rpo.policy.forward.vision
from lit_g2rpo.experience import Prompt
from lit_g2rpo.policy.config import PolicyConfig
from lit_g2rpo.policy.feature_store import FeatureStore
from lit_g2rpo.policy.forward.layers import PatchProjection
from lit_g2rpo.policy.forward.vision import image_features
from lit_g2rpo.policy.loading import load_policy
from lit_g2rpo.policy.policy import Policy

FROZEN: list[Any] = ["vision", "merger"]
TOKENS = [torch.tensor([30, 31, 32])]


def load(folder: str, **options: Any) -> Policy:
    return load_policy(PolicyConfig(path=folder, **options))


def test_features_are_those_of_the_model_image_by_image(random_folder: str, mixed_prompts: list[Prompt]) -> None:
    policy = load(random_folder, freeze=FROZEN)
    rows = [policy.encode(prompt) for prompt in mixed_prompts]
    found = image_features(policy.backbone, [*rows, rows[2]])
    assert found[0] is None
    assert found[4] is found[2]
    assert policy.backbone.counters.images_encoded == 4
    for row, features in zip(rows[1:], found[1:4], strict=True):
        assert features is not None
        own = policy.base.model.get_image_features(row.pixel_values, row.image_grid, return_dict=True)
        torch.testing.assert_close(features.embeddings, torch.cat(own.pooler_output), atol=1e-5, rtol=1e-5)
        for ours, theirs in zip(features.added, own.deepstack_features, strict=True):
            torch.testing.assert_close(ours, torch.cat(theirs), atol=1e-5, rtol=1e-5)


def test_training_never_runs_a_frozen_tower_once_features_are_prepared(
    random_folder: str, mixed_prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = load(random_folder, freeze=FROZEN)
    policy.prepare_features(mixed_prompts)
    assert policy.backbone.counters.images_encoded == 4

    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("the tower ran")

    monkeypatch.setattr(policy.base.model.visual, "forward", fail)
    for prompts in (mixed_prompts, mixed_prompts[:1], []):
        policy.token_stats(prompts, [TOKENS[0]] * len(prompts))
    assert policy.backbone.counters.images_encoded == 4


@pytest.mark.parametrize("patches", [1, 200])
def test_a_frozen_tower_encodes_some_images_at_a_time(
    random_folder: str, mixed_prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch, patches: int
) -> None:
    policy = load(random_folder, freeze=FROZEN)
    rows = [policy.encode(prompt) for prompt in mixed_prompts]
    whole = image_features(policy.backbone, rows)
    for row in rows:
        row.features = None
    monkeypatch.setattr(lit_g2rpo.policy.forward.vision, "PATCHES", patches)
    read: list[int] = []
    policy.base.model.visual.register_forward_pre_hook(lambda _, arguments: read.append(len(arguments[0])))
    for found, expected in zip(image_features(policy.backbone, rows), whole, strict=True):
        if found is not None and expected is not None:
            torch.testing.assert_close(found.embeddings, expected.embeddings, atol=1e-6, rtol=1e-5)
    sizes = [row.patches for row in rows if row.patches]
    assert sum(read) == sum(sizes)
    assert all(size <= patches or size in sizes for size in read)
    assert read == sizes if patches == 1 else 1 < len(read) < len(sizes)


def test_a_trained_tower_encodes_in_every_pass_with_gradient(random_folder: str) -> None:
    policy, prompt = load(random_folder), make_prompt("one", 1)
    policy.prepare_features([prompt])
    assert policy.backbone.counters.images_encoded == 0
    for passes in (1, 2):
        found = image_features(policy.backbone, [policy.encode(prompt)])[0]
        assert found is not None
        assert found.embeddings.requires_grad
        assert policy.encode(prompt).features is None
        assert policy.backbone.counters.images_encoded == passes


def test_a_reference_of_a_trained_tower_leaves_no_features_behind(random_folder: str) -> None:
    policy, prompt = load(random_folder), make_prompt("one", 1)
    reference = load(random_folder).requires_grad_(False)
    with torch.no_grad():
        expected, _ = policy.token_stats([prompt], TOKENS)
        for weight in reference.parameters():
            weight.mul_(1.1)
        reference.token_stats([prompt], TOKENS)
        torch.testing.assert_close(policy.token_stats([prompt], TOKENS)[0], expected)


def test_features_beyond_the_limit_wait_in_host_memory(random_folder: str) -> None:
    policy = load(random_folder, freeze=FROZEN)
    prompts = [make_prompt(f"p{i}", 1) for i in range(3)]
    rows = [policy.encode(prompt) for prompt in prompts]
    features = [found.to(torch.device("meta")) for found in image_features(policy.backbone, rows) if found is not None]
    store = FeatureStore(2.5 * features[0].bytes)
    for row, found in zip(rows[:2], features, strict=False):
        store.keep(row, found)
    real = image_features(policy.backbone, [policy.encode(make_prompt("p3", 1))])[0]
    assert real is not None
    store.keep(rows[2], real)
    assert [row.features.embeddings.device.type for row in rows if row.features] == ["meta", "meta", "cpu"]
    # memory that a finished rollout gives back is used again
    rows[0].features, found = None, features.pop(0)
    del found
    row = policy.encode(make_prompt("p4", 1))
    store.keep(row, features[-1])
    assert row.features is features[-1]


def test_results_do_not_depend_on_where_features_are_kept(random_folder: str) -> None:
    prompt = make_prompt("one", 1)
    expected, _ = load(random_folder, freeze=FROZEN).token_stats([prompt], TOKENS)
    other = load(random_folder, freeze=FROZEN, features_on_device_mib=0.0)
    again = make_prompt("one", 1)
    other.prepare_features([again])
    torch.testing.assert_close(other.token_stats([again], TOKENS)[0], expected)


def test_patches_are_projected_as_by_the_convolution() -> None:
    torch.manual_seed(0)
    layer = torch.nn.Conv3d(3, 5, (2, 4, 4), stride=(2, 4, 4)).double()
    patches = torch.randn(7, 3, 2, 4, 4, dtype=torch.float64)
    expected = layer(patches)
    layer.__class__ = PatchProjection
    torch.testing.assert_close(layer(patches), expected)
