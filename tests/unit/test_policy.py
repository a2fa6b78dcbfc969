"""The policy against one row at a time and the model itself; gradients of empty and text-only batches; loading."""

from typing import Any

import pytest
import torch
from helpers.prompts import make_prompt

from lit_g2rpo.errors import UserError
from lit_g2rpo.experience import Microbatch, Prompt
from lit_g2rpo.objectives import G2RPO
from lit_g2rpo.objectives.fields import TokenFields
from lit_g2rpo.policy.config import LoraConfig, PolicyConfig
from lit_g2rpo.policy.loading import load_policy
from lit_g2rpo.policy.policy import Policy


@pytest.fixture(scope="module", params=[True, False], ids=["packed", "padded"])
def policy(random_folder: str, request: pytest.FixtureRequest) -> Policy:
    return load_policy(PolicyConfig(path=random_folder, packing=request.param))


def tokens_of(policy: Policy, lengths: list[int]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(20, 200, (n,), generator=generator) for n in lengths]


def test_a_batch_gives_what_single_rows_give(policy: Policy, mixed_prompts: list[Prompt]) -> None:
    tokens = tokens_of(policy, [4, 1, 7, 3])
    together, entropy = policy.token_stats(mixed_prompts, tokens)
    single = [policy.token_stats([p], [t]) for p, t in zip(mixed_prompts, tokens, strict=True)]
    torch.testing.assert_close(together, torch.cat([s[0] for s in single]), atol=1e-5, rtol=0)
    torch.testing.assert_close(entropy, torch.cat([s[1] for s in single]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("training", [True, False])
def test_log_probabilities_know_no_dropout(random_folder: str, mixed_prompts: list[Prompt], training: bool) -> None:
    """Old and reference log-probabilities are the policy's own, whatever the learning passes leave out."""
    policy = load_policy(PolicyConfig(path=random_folder, lora=LoraConfig(rank=4, alpha=8, dropout=0.5)))
    for name, weight in policy.named_parameters():
        if "lora_B" in name:
            torch.nn.init.constant_(weight, 0.1)
    tokens = tokens_of(policy, [4, 1, 7, 3])
    with torch.no_grad():
        hidden, targets = policy.eval().hidden_states(mixed_prompts, tokens)
        expected = (hidden @ policy.base.lm_head.weight.T).log_softmax(-1).gather(-1, targets[:, None])[:, 0]
        found, _ = policy.train(training).token_stats(mixed_prompts, tokens)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert all(part.training == training for part in policy.modules())


def test_a_row_gives_what_the_model_itself_gives(policy: Policy) -> None:
    prompt, tokens = make_prompt("one", 1), tokens_of(policy, [6])[0]
    encoded = policy.encode(prompt)
    ids = torch.cat([encoded.input_ids, tokens])[None]
    types = torch.cat([encoded.token_types, torch.zeros(6, dtype=torch.long)])[None]
    logits = policy.base(
        input_ids=ids, mm_token_type_ids=types, pixel_values=encoded.pixel_values, image_grid_thw=encoded.image_grid
    ).logits[0, -7:-1]
    expected = logits.log_softmax(-1).gather(-1, tokens[:, None])[:, 0]
    torch.testing.assert_close(policy.token_stats([prompt], [tokens])[0], expected, atol=1e-5, rtol=0)


def fields(n: int) -> TokenFields:
    zeros = torch.zeros(n)
    return TokenFields(zeros, zeros, None, zeros, zeros, torch.zeros(n, dtype=torch.long))


@pytest.mark.parametrize("rows", [0, 2])
def test_batches_without_an_image_give_every_weight_a_gradient(policy: Policy, rows: int) -> None:
    prompts = [make_prompt(f"text{i}", 0) for i in range(rows)]
    tokens = tokens_of(policy, [3] * rows)
    policy.zero_grad(set_to_none=True)
    loss, metrics = policy.loss(Microbatch(prompts, tokens, fields(3 * rows)), G2RPO().token_loss)
    loss.backward()
    assert all(p.grad is not None for p in policy.parameters())
    assert loss.item() == 0
    assert metrics["entropy"].shape == (3 * rows,)
    vision = [p.grad for n, p in policy.named_parameters() if ".visual." in n]
    assert all(grad is not None and grad.abs().max() == 0 for grad in vision)


def test_prompts_are_encoded_once(policy: Policy) -> None:
    prompt = make_prompt("one", 1)
    assert policy.encode(prompt) is policy.encode(prompt)


def test_images_and_places_must_agree(policy: Policy) -> None:
    prompt = make_prompt("bad", 1)
    prompt.images = []
    with pytest.raises(UserError, match="row bad: 1 image places in the prompt but 0 images"):
        policy.encode(prompt)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("./nowhere", "holds no config.json"),
        ("package:no_such_package/x", "there is no package no_such_package"),
        ("package:lit_g2rpo.mini/nothing", "holds no config.json"),
    ],
)
def test_a_missing_checkpoint_is_one_clear_line(path: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        load_policy(PolicyConfig(path=path))
    assert path in str(error.value)
    assert "\n" not in str(error.value)


def test_freezing_stops_only_the_named_part(random_folder: str) -> None:
    policy = load_policy(PolicyConfig(path=random_folder, freeze=["vision", "merger"]))
    frozen = {n for n, p in policy.named_parameters() if not p.requires_grad}
    assert frozen == {n for n, _ in policy.named_parameters() if ".visual." in n}


@pytest.mark.parametrize("vision", [False, True])
def test_adapters_off_are_the_reference(random_folder: str, vision: bool) -> None:
    pytest.importorskip("peft")
    plain = load_policy(PolicyConfig(path=random_folder))
    policy = load_policy(PolicyConfig(path=random_folder, lora=LoraConfig(rank=2, alpha=4, vision=vision)))
    trained = [n for n, p in policy.named_parameters() if p.requires_grad]
    assert all("lora_" in n for n in trained)
    assert {policy.backbone.family.part_of(n) for n in trained} == ({"language", "vision"} if vision else {"language"})
    adapted = {n.split(".lora_")[0] for n in trained if ".visual." in n}
    linear = {n for n, m in policy.named_modules() if ".visual.blocks." in n and hasattr(m, "base_layer")}
    assert adapted == linear
    assert len(linear) == (4 * len(policy.base.model.visual.blocks) if vision else 0)
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    prompts, tokens = [make_prompt("one", 1)], tokens_of(policy, [5])
    expected, _ = plain.token_stats(prompts, tokens)
    with policy.reference():
        torch.testing.assert_close(policy.token_stats(prompts, tokens)[0], expected)
    assert (policy.token_stats(prompts, tokens)[0] - expected).abs().max() > 1e-3
    policy.token_stats(prompts, tokens)[0].sum().backward()
    assert all(p.grad is not None and p.grad.norm() > 0 for n, p in policy.named_parameters() if "lora_B" in n)


@pytest.mark.parametrize(("frozen", "vision"), [(["language"], False), (["vision"], True)])
def test_a_part_is_not_frozen_and_adapted_at_once(random_folder: str, frozen: list[Any], vision: bool) -> None:
    with pytest.raises(UserError, match="adapters freeze the weights below them anyway"):
        load_policy(PolicyConfig(path=random_folder, freeze=frozen, lora=LoraConfig(vision=vision)))
