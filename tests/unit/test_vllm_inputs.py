"""A prompt's tokens and images as vLLM takes them, without vLLM."""

import pytest
import torch
from helpers.paths import WEIGHTS
from helpers.prompts import make_prompt
from PIL import Image

from lit_g2rpo.policy.config import PolicyConfig
from lit_g2rpo.policy.encoding import EncodedPrompt
from lit_g2rpo.policy.loading import load_policy
from lit_g2rpo.policy.policy import Policy
from lit_g2rpo.rollout.vllm.inputs import PromptInput, prompt_input


@pytest.fixture(scope="module")
def policy() -> Policy:
    return load_policy(PolicyConfig(path=str(WEIGHTS)))


def inputs(policy: Policy, *images: Image.Image) -> PromptInput:
    prompt = make_prompt("a", len(images))
    prompt.images = list(images)
    return prompt_input(policy.encode(prompt), policy.base.config.vision_config.spatial_merge_size)


def test_each_image_has_its_place_and_its_patches(policy: Policy) -> None:
    images = [Image.effect_noise(size, 80).convert("RGB") for size in ((100, 70), (33, 65), (64, 64))]
    found = inputs(policy, *images)
    places = [index for index, token in enumerate(found.token_ids) if token == policy.base.config.image_token_id]
    covered = [place for image in found.images for place in range(image.offset, image.offset + image.length)]
    assert covered == places
    for image, original in zip(found.images, images, strict=True):
        alone = policy.processor.image_processor(original, return_tensors="pt")
        assert torch.equal(image.patches, alone["pixel_values"])
        assert torch.equal(image.grid, alone["image_grid_thw"][0])
        assert image.length * 4 == len(image.patches)


def test_a_prompt_without_images_is_its_tokens(policy: Policy) -> None:
    found = inputs(policy)
    assert found.images == []
    assert found.token_ids == policy.encode(make_prompt("a", 0)).input_ids.tolist()


def test_digests_tell_images_apart_and_not_their_repetitions(policy: Policy) -> None:
    red, wide, high = (Image.new("RGB", size, (200, 30, 30)) for size in ((64, 64), (128, 32), (32, 128)))
    one, two, three, four = inputs(policy, red, wide, high, red.copy()).images
    assert torch.equal(two.patches, three.patches)
    assert len({one.digest, two.digest, three.digest}) == 3
    assert one.digest == four.digest == inputs(policy, red).images[0].digest


def test_a_video_is_its_pairs_of_frames() -> None:
    """An image of 2 x 4 patches, a video of three pairs of 2 x 2, with words between them."""
    types = torch.tensor([0, 1, 1, 0, 0, 2, 0, 0, 2, 0, 2, 0])
    patches = torch.arange(8 + 3 * 4.0)[:, None]
    grid = torch.tensor([[1, 2, 4], [3, 2, 2]])
    found = prompt_input(EncodedPrompt(types, types, types.expand(3, -1), 12, patches, grid), 2)
    assert [(image.offset, image.length) for image in found.images] == [(1, 2), (5, 1), (8, 1), (10, 1)]
    assert [image.grid.tolist() for image in found.images] == [[1, 2, 4], [1, 2, 2], [1, 2, 2], [1, 2, 2]]
    assert torch.equal(torch.cat([image.patches for image in found.images]), patches)
    assert grid[1, 0] == 3, "the prompt's own grid is left alone"
