"""Digests that tell one state of a policy, or one input of it, from another."""

import hashlib

import torch
from torch import Tensor, nn

from lit_g2rpo.policy.encoding import EncodedPrompt

BLOCK = 2**20
"""Numbers digested at a time."""

INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Integers by their size, bytes."""


def weights_digest(policy: nn.Module) -> str:
    """Digest all weights and buffers, where they lie; to be called on whole weights.

    Sums of their bits times odd factors that differ by place, modulo 2^32 in blocks: one changed bit always changes it.

    Returns:
        Hexadecimal digits, the same on every device.
    """
    digest, sums = hashlib.blake2b(digest_size=16), []
    factors: dict[torch.device, Tensor] = {}
    # not the state dict, which a strategy that splits weights would split again
    for name, tensor in (*policy.named_parameters(), *policy.named_buffers()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        if tensor.device not in factors:
            # of the golden ratio, so that neighbours differ in all bits
            factors[tensor.device] = (torch.arange(BLOCK, device=tensor.device, dtype=torch.int32) * -1640531527) | 1
        bits = tensor.detach().contiguous().flatten().view(INTEGERS[tensor.dtype.itemsize])
        if bits.dtype == torch.int64:
            bits = bits.view(torch.int32)
        for start in range(0, len(bits), BLOCK):
            block = bits[start : start + BLOCK]
            sums.append((block.int() * factors[tensor.device][: len(block)]).sum())
    # on the host all at once, each of which would wait for the device
    by_device = {device: torch.stack([s for s in sums if s.device == device]).cpu() for device in factors}
    for found in by_device.values():
        digest.update(found.numpy().tobytes())
    return digest.hexdigest()


def prompt_digest(prompt: EncodedPrompt) -> str:
    """Digest what the policy reads of a prompt: tokens, positions and pixels; hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=16)
    for tensor in (prompt.input_ids, prompt.positions, prompt.image_grid, prompt.pixel_values):
        if tensor is not None:
            digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
