"""The padded forward: every row with its own prompt and images, in the model's own code; oracle of the packed one."""

import torch
from torch import Tensor

from lit_g2rpo.hardware.transfer import send
from lit_g2rpo.policy.backbone import Backbone
from lit_g2rpo.policy.encoding import EncodedPrompt, collate


def padded_states(backbone: Backbone, rows: list[EncodedPrompt], completions: list[Tensor]) -> Tensor:
    """Compute the result of `packed_states` in one padded forward."""
    count, dummy = sum(len(tokens) for tokens in completions), 0
    # Every rank runs the same modules in every micro-batch, and gradients exist everywhere (zero, not missing).
    if not any(row.pixel_values is not None for row in rows):
        blank = backbone.blank
        rows, completions, dummy = [*rows, blank], [*completions, blank.input_ids[-1:]], len(blank.input_ids) + 1
    batch = collate(rows, completions, backbone.pad_token_id, side="right")
    at = [
        (i, len(row.input_ids) - 1 + t)
        for i, (row, tokens) in enumerate(zip(rows, completions, strict=True))
        for t in range(len(tokens))
    ]
    row_index, token_index = send(torch.tensor(at).T, backbone.device)
    hidden = backbone.family.padded_states(backbone.model, batch)
    counters = backbone.counters
    counters.train_passes += 1
    counters.images_encoded += sum(len(batch.get(name, ())) for name in ("image_grid_thw", "video_grid_thw"))
    counters.train_completion_tokens += count
    counters.train_prompt_tokens += sum(len(row.input_ids) for row in rows) - max(dummy - 1, 0)
    counters.train_padded_tokens += batch["input_ids"].numel() - sum(
        len(row.input_ids) + len(tokens) for row, tokens in zip(rows, completions, strict=True)
    ) + dummy  # fmt: skip
    # A slice keeps the dummy in the graph.
    return hidden[row_index, token_index][:count]
