"""Digests that tell one state of a policy, or one input of it, from another."""

import hashlib
from functools import cache

import torch
from torch import Tensor, nn

from lit_g2rpo.policy.encoding import EncodedPrompt

BLOCK = 2**18
"""Numbers digested at a time."""

INTEGERS = {1: torch.int8, 2: torch.int16}
"""Integers for numbers of so many bytes; larger ones are read as several integers of 32 bits."""


def weights_digest(policy: nn.Module) -> str:
    """Digest all weights and buffers, where they lie; to be called on whole weights.

    It is made of sums over blocks, modulo 2^64, of the bits of each number times an odd factor of its place: a checksum
    of bytes would need the weights on the host. One number that changes always changes it.

    Returns:
        Hexadecimal digits, the same on every device.
    """
    digest = hashlib.blake2b(digest_size=16)
    sums: dict[torch.device, list[Tensor]] = {}
    # not the state dict, which a strategy that splits weights would split again
    for name, tensor in (*policy.named_parameters(), *policy.named_buffers()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        bits = tensor.detach().contiguous().flatten().view(INTEGERS.get(tensor.dtype.itemsize, torch.int32))
        factors = _factors(tensor.device)
        for start in range(0, len(bits), BLOCK):
            block = bits[start : start + BLOCK]
            sums.setdefault(tensor.device, []).append((block * factors[: len(block)]).sum())
    for found in sums.values():
        # to the host all at once: each would wait for the device
        digest.update(torch.stack(found).cpu().numpy().tobytes())
    return digest.hexdigest()


@cache
def _factors(device: torch.device) -> Tensor:
    """Make odd factors, ``[BLOCK]`` long, the same in every process."""
    generator = torch.Generator("cpu").manual_seed(0)
    return (torch.randint(0, 2**62, (BLOCK,), generator=generator, device="cpu") | 1).to(device)


def prompt_digest(prompt: EncodedPrompt) -> str:
    """Digest what the policy reads of a prompt: tokens, positions and pixels; hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=16)
    for tensor in (prompt.input_ids, prompt.positions, prompt.image_grid, prompt.pixel_values):
        if tensor is not None:
            digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
