"""Stage V of the build: train only the vision tower to detect, through linear heads that are discarded afterwards.

Without it, the language layers see noise instead of the image, and supervised training stays at chance for minutes.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import Qwen3VLForConditionalGeneration

from lit_g2rpo.mini.images import SIDE, Canvas
from lit_g2rpo.mini.pretraining import LESSONS
from lit_g2rpo.policy.families.qwen3_vl import Qwen3VL

CELL = 16
GRID = SIDE // CELL
KINDS = ("cross", "ring", "bar")
CLASSES = 1 + 10 + len(KINDS)
LESSON_SHARE = {"cells": 0.3, "boxes": 0.25, "row": 0.2, "inventory": 0.15, "bars": 0.1}


def detection_targets(canvas: Canvas) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return for each cell of a drawn image which item has its center there.

    Returns:
        Class of each cell, `[GRID * GRID]`: 0 nothing, 1-10 a digit, then `KINDS`; and the edges of its box from the
        top left corner of the image, in cells, `[GRID * GRID, 4]`.
    """
    classes = np.zeros(GRID * GRID, dtype=np.int64)
    edges = np.zeros((GRID * GRID, 4), dtype=np.float32)
    for item in canvas.items:
        across, down = (min(int(value // CELL), GRID - 1) for value in item.centre)
        cell = down * GRID + across
        classes[cell] = 1 + item.value if item.kind == "digit" else 11 + KINDS.index(item.kind)
        # From the corner, not from the cell: tokens must encode their position, or no box can be read from them.
        edges[cell] = np.array(item.box, dtype=np.float32) / CELL
    return classes, edges


def draw_batch(step: int, batch: int, split: str, seed: int) -> tuple[NDArray[np.uint8], Tensor, Tensor]:
    """Draw the images of one step, determined by its number, with their detection targets.

    Returns:
        Images `[batch, SIDE, SIDE, 3]`, classes `[batch, cells]` and edges `[batch, cells, 4]`.
    """
    rng = np.random.default_rng([seed, step])
    images, classes, edges = [], [], []
    for name in rng.choice(list(LESSON_SHARE), batch, p=list(LESSON_SHARE.values())):
        canvas = Canvas(rng, split)
        LESSONS[name](canvas)
        target = detection_targets(canvas)
        images.append(np.asarray(canvas.image()))
        classes.append(target[0])
        edges.append(target[1])
    return np.stack(images), torch.from_numpy(np.stack(classes)), torch.from_numpy(np.stack(edges))


def patches(images: NDArray[np.uint8], patch: int = 8, merge: int = 2) -> Tensor:
    """Cut images into the rows that the vision tower reads, as the image processor does, for a whole batch at once.

    Args:
        images: RGB images of one size, `[N, height, width, 3]`.
        patch: side of a patch, pixels.
        merge: patches per side of a merged token.

    Returns:
        Normalized patches, `[N * patches, 3 * 2 * patch * patch]`.
    """
    count, height, width, _ = images.shape
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    cut = pixels.reshape(count, 3, height // patch // merge, merge, patch, width // patch // merge, merge, patch)
    rows = cut.permute(0, 2, 5, 3, 6, 1, 4, 7).unsqueeze(6).expand(-1, -1, -1, -1, -1, -1, 2, -1, -1)
    return rows.reshape(-1, 3 * 2 * patch * patch)


class DetectionHeads(nn.Module):
    """Linear heads for class and box, one pair per stream of merged tokens that enters the language layers."""

    def __init__(self, width: int, streams: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(width, CLASSES + 4) for _ in range(streams))

    def forward(self, streams: list[Tensor], classes: Tensor, edges: Tensor) -> Tensor:
        """Compute the detection loss.

        Args:
            streams: merged tokens, each `[N * cells, width]`.
            classes: class of each cell, `[N, cells]`.
            edges: box of each cell, `[N, cells, 4]`.

        Returns:
            Mean loss over streams, a scalar.
        """
        labels, filled = classes.flatten(), classes.flatten() > 0
        total = edges.new_zeros(())
        for head, tokens in zip(self.heads, streams, strict=True):
            output = head(tokens)
            # Most cells are empty: at full weight they would drown out the digits.
            weight = torch.where(filled, 1.0, 0.3)
            named = nn.functional.cross_entropy(output[:, :CLASSES], labels, reduction="none")
            total = total + (named * weight).sum() / weight.sum()
            total = total + (output[filled, CLASSES:] - edges.flatten(0, 1)[filled]).abs().mean() * 2
        return total / len(self.heads)


def merged_tokens(policy: Qwen3VLForConditionalGeneration, images: NDArray[np.uint8]) -> list[Tensor]:
    """Run the vision tower.

    Args:
        images: images, `[N, SIDE, SIDE, 3]`.

    Returns:
        The stream of each level, `[N * cells, width]`.
    """
    side = SIDE // 8
    grid = torch.tensor([[1, side, side]]).expand(len(images), 3)
    return [torch.cat(level) for level in Qwen3VL().image_features(policy, patches(images), grid)]


def train_vision(
    policy: Qwen3VLForConditionalGeneration,
    checkpoint: Path,
    steps: int = 1800,
    batch: int = 64,
    peak: float = 3e-3,
    seed: int = 0,
    save_every: int = 200,
) -> None:
    """Train the vision tower in place; continue from the checkpoint if there is one.

    Args:
        checkpoint: file for tower, heads, optimizer and step.
        peak: learning rate after warm-up, followed by cosine decay to zero.
        save_every: steps between checkpoints.
    """
    family = Qwen3VL()
    tower, sizes = family.tower(policy), family.image_sizes(policy.config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        heads = DetectionHeads(family.text(policy).config.hidden_size, sizes.levels)
    parameters = [*tower.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=peak, betas=(0.9, 0.98), weight_decay=0.02)
    start = 0
    if checkpoint.is_file():
        state = torch.load(checkpoint, weights_only=True)
        tower.load_state_dict(state["visual"])
        heads.load_state_dict(state["heads"])
        optimizer.load_state_dict(state["optimizer"])
        start = state["step"]
    for step in range(start, steps):
        images, classes, edges = draw_batch(step, batch, "train", seed)
        rate = peak * min(1.0, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = heads(merged_tokens(policy, images), classes, edges)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if (step + 1) % save_every == 0 or step + 1 == steps:
            state = {"visual": tower.state_dict(), "heads": heads.state_dict()}
            torch.save(state | {"optimizer": optimizer.state_dict(), "step": step + 1}, checkpoint)
