"""Conversion of prompts to the tensors of a forward."""

import re
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from lit_g2rpo.errors import UserError
from lit_g2rpo.experience import Prompt
from lit_g2rpo.hardware.transfer import send
from lit_g2rpo.policy.families.family import Family


@dataclass(slots=True, weakref_slot=True, eq=False)
class Features:
    """Output of the vision tower for a prompt's images and videos: ``n`` tokens in the order of their places.

    Args:
        embeddings: embeddings that replace the pad tokens, ``[n, H]``.
        added: features that the first layers of the text model add at these tokens, ``[n, H]`` per layer.
    """

    embeddings: Tensor
    added: list[Tensor]

    @property
    def bytes(self) -> int:
        """Size of the features, bytes."""
        return sum(tensor.nbytes for tensor in (self.embeddings, *self.added))

    def to(self, device: torch.device) -> "Features":
        """Move the features to a device, unless they are already there."""
        if self.embeddings.device == device:
            return self
        return Features(send(self.embeddings, device), [send(layer, device) for layer in self.added])


@dataclass(slots=True)
class EncodedPrompt:
    """A prompt as tokens and patches of images and videos.

    Args:
        input_ids: ``[L]`` long, with image and video pads expanded.
        token_types: 1 at image tokens, 2 at video tokens, 0 elsewhere, ``[L]`` long.
        positions: position of each token: time, height, width, ``[3, L]`` long.
        next_position: position of the first completion token; later ones continue from it.
        pixel_values: patches of all images and videos, in the order of their places, ``[patches, values]``; None
            without any.
        image_grid: pairs of frames, rows and columns of patches of each image and video, in the same order,
            ``[images, 3]`` long; None without any.
        features: the encoded images and videos, kept here if the vision tower is frozen.
        video_times: for each row of ``image_grid`` that is a video, the mean time of each pair of frames, seconds.
    """

    input_ids: Tensor
    token_types: Tensor
    positions: Tensor
    next_position: int
    pixel_values: Tensor | None
    image_grid: Tensor | None
    features: Features | None = None
    video_times: dict[int, list[float]] = field(default_factory=dict)

    @property
    def patches(self) -> int:
        """Number of patches of all images and videos."""
        return 0 if self.pixel_values is None else len(self.pixel_values)

    def media(self) -> dict[str, Tensor]:
        """Return patches and grids as the model's own forward takes them: images and videos apart."""
        if self.pixel_values is None or self.image_grid is None:
            return {}
        if not self.video_times:
            return {"pixel_values": self.pixel_values, "image_grid_thw": self.image_grid}
        patches = torch.split(self.pixel_values, self.image_grid.prod(1).tolist())
        video = torch.tensor([row in self.video_times for row in range(len(patches))])
        found = {
            "pixel_values_videos": torch.cat([patches[row] for row in video.nonzero()[:, 0]]),
            "video_grid_thw": self.image_grid[video],
        }
        if not video.all():
            found["pixel_values"] = torch.cat([patches[row] for row in (~video).nonzero()[:, 0]])
            found["image_grid_thw"] = self.image_grid[~video]
        return found


def encode(processor: Any, model: Any, family: Family, prompt: Prompt) -> EncodedPrompt:
    """Tokenize a prompt, read its videos, and split images and frames into patches, on the CPU.

    Raises:
        UserError: if the prompt's places do not match its images and videos, or a video cannot be read.
    """
    text = prompt_text(processor, prompt)
    videos = [processor.frames(video) for video in prompt.videos]
    options: dict[str, Any] = {}
    if videos:
        options["videos"] = [frames for frames, _ in videos]
        options["videos_kwargs"] = {
            "do_sample_frames": False,
            "do_resize": False,
            "input_data_format": "channels_first",
            "video_metadata": [metadata for _, metadata in videos],
        }
    inputs = processor(text=[text], images=prompt.images or None, return_tensors="pt", **options)
    input_ids = inputs["input_ids"][0]
    token_types = (input_ids == processor.image_token_id).long()
    token_types[input_ids == processor.video_token_id] = 2
    grid, video_grid = inputs.get("image_grid_thw"), inputs.get("video_grid_thw")
    # On the CPU, where the loops in the model's function do not synchronize with a device.
    positions = family.positions(model, input_ids[None], token_types[None], grid, video_grid)
    encoded = EncodedPrompt(
        input_ids=input_ids,
        token_types=token_types,
        positions=positions[:, 0],
        next_position=int(positions.max()) + 1,
        pixel_values=inputs.get("pixel_values"),
        image_grid=grid,
    )
    if videos:
        _insert_videos(encoded, inputs, [processor.times(metadata) for _, metadata in videos], _places(processor, text))
    return encoded


def prompt_text(processor: Any, prompt: Prompt) -> str:
    """Write a prompt in the policy's chat template, with one pad token for each image and video.

    Raises:
        UserError: if its places do not match its images and videos.
    """
    text: str = processor.apply_chat_template(prompt.messages, tokenize=False, add_generation_prompt=True)
    for kind, token, given in (
        ("image", processor.image_token, len(prompt.images)),
        ("video", processor.video_token, len(prompt.videos)),
    ):
        if text.count(token) != given:
            raise UserError(f"row {prompt.id}: {text.count(token)} {kind} places in the prompt but {given} {kind}s")
    return text


def _places(processor: Any, text: str) -> list[bool]:
    """Return whether each place is a video, in order."""
    tokens = f"{re.escape(processor.image_token)}|{re.escape(processor.video_token)}"
    return [token == processor.video_token for token in re.findall(tokens, text)]


def _insert_videos(encoded: EncodedPrompt, inputs: Any, times: list[list[float]], places: list[bool]) -> None:
    """Merge the patches of videos with those of images, in the order of their places."""
    apart = []
    for name, grid in (("pixel_values", "image_grid_thw"), ("pixel_values_videos", "video_grid_thw")):
        grids = inputs.get(grid, torch.empty(0, 3, dtype=torch.long))
        apart.append(iter(zip(inputs[name].split(grids.prod(1).tolist()) if len(grids) else (), grids, strict=True)))
    found = [next(apart[is_video]) for is_video in places]
    encoded.pixel_values = torch.cat([patches for patches, _ in found])
    encoded.image_grid = torch.stack([grid for _, grid in found])
    encoded.video_times = dict(zip((row for row, is_video in enumerate(places) if is_video), times, strict=True))


def blank_prompt(side: int) -> Prompt:
    """Create a prompt with one black image of ``side`` pixels, for a batch without images."""
    content = [{"type": "image"}, {"type": "text", "text": "."}]
    image = Image.new("RGB", (side, side))
    return Prompt("blank", "", "", [{"role": "user", "content": content}], [image], {})


def blank_text(token: int) -> EncodedPrompt:
    """Create an encoded prompt of one token, for an empty batch."""
    one = torch.zeros(1, dtype=torch.long)
    return EncodedPrompt(one + token, one, one.expand(3, 1), 1, None, None)


def collate(rows: list[EncodedPrompt], completions: list[Tensor], pad: int, side: str) -> dict[str, Tensor]:
    """Pad rows of prompt and completion into one batch.

    Args:
        rows: prompt of each row, ``N`` of them.
        completions: completion tokens of each row, ``[T_i]`` long (empty before generation).
        side: ``left`` for generation, ``right`` for training.

    Returns:
        ``input_ids``, ``attention_mask`` and ``mm_token_type_ids``, ``[N, L]`` each, and the patches and grids of all
        images, and of all videos, in row order if there are any (see ``EncodedPrompt.media``).
    """
    lengths = [len(row.input_ids) + len(tokens) for row, tokens in zip(rows, completions, strict=True)]
    shape = (len(rows), max(lengths))
    input_ids = torch.full(shape, pad)
    mask = torch.zeros(shape, dtype=torch.long)
    types = torch.zeros(shape, dtype=torch.long)
    for i, (row, tokens) in enumerate(zip(rows, completions, strict=True)):
        start = shape[1] - lengths[i] if side == "left" else 0
        prompt_end = start + len(row.input_ids)
        input_ids[i, start:prompt_end] = row.input_ids
        input_ids[i, prompt_end : start + lengths[i]] = tokens
        mask[i, start : start + lengths[i]] = 1
        types[i, start:prompt_end] = row.token_types
    batch = {"input_ids": input_ids, "attention_mask": mask, "mm_token_type_ids": types}
    media = [row.media() for row in rows]
    for name in dict.fromkeys(name for found in media for name in found):
        batch[name] = torch.cat([found[name] for found in media if name in found])
    return batch
