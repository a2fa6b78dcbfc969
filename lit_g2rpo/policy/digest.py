"""Digests that distinguish the states of a policy, and its inputs."""

import hashlib
from functools import cache

import torch
from torch import Tensor, nn

from lit_g2rpo.policy.encoding import EncodedPrompt

BLOCK = 2**18
"""Numbers digested at a time."""

INTEGERS = {1: torch.int8, 2: torch.int16}
"""Integer type by bytes per number; larger numbers are read as several 32-bit integers."""


def weights_digest(policy: nn.Module) -> str:
    """Digest all weights and buffers on their device; call this on gathered weights.

    The digest is made of block sums, modulo 2^64, of the bits of each number times an odd factor for its position,
    since a checksum of bytes would need the weights on the host. A change in one number always changes it.

    Returns:
        Hexadecimal digits, the same on every device.
    """
    names: list[str] = []
    small: dict[torch.device, list[Tensor]] = {}
    sums: dict[torch.device, list[Tensor]] = {}

    def add(bits: Tensor) -> None:
        for start in range(0, len(bits), BLOCK):
            block = bits[start : start + BLOCK]
            sums.setdefault(bits.device, []).append((block * _factors(bits.device)[: len(block)]).sum())

    # not the state dict, for which a strategy would split the weights again
    for name, tensor in (*policy.named_parameters(), *policy.named_buffers()):
        names.append(f"{name} {tensor.dtype} {tuple(tensor.shape)}")
        bits = tensor.detach().reshape(-1).view(INTEGERS.get(tensor.dtype.itemsize, torch.int32))
        if len(bits) < BLOCK:
            small.setdefault(bits.device, []).append(bits.int())
        else:
            add(bits)
    for many in small.values():
        # joined, since launching each one separately would take longer than computing it
        add(torch.cat(many))
    digest = hashlib.sha256("\n".join(names).encode())
    for found in sums.values():
        # to the host in one transfer, since each transfer waits for the device
        digest.update(torch.stack(found).cpu().numpy().tobytes())
    return digest.hexdigest()


@cache
def _factors(device: torch.device) -> Tensor:
    """Create odd factors, ``[BLOCK]`` long, the same in every process."""
    generator = torch.Generator("cpu").manual_seed(0)
    return (torch.randint(0, 2**62, (BLOCK,), generator=generator, device="cpu") | 1).to(device)


def prompt_digest(prompt: EncodedPrompt) -> str:
    """Digest what the policy reads from a prompt: tokens, positions and pixels; return hexadecimal digits."""
    digest = hashlib.sha256()
    for tensor in (prompt.input_ids, prompt.positions, prompt.image_grid, prompt.pixel_values):
        if tensor is not None:
            digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
