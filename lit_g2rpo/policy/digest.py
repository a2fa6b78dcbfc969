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
    names: list[str] = []
    small: dict[torch.device, list[Tensor]] = {}
    sums: dict[torch.device, list[Tensor]] = {}

    def add(bits: Tensor) -> None:
        for start in range(0, len(bits), BLOCK):
            block = bits[start : start + BLOCK]
            sums.setdefault(bits.device, []).append((block * _factors(bits.device)[: len(block)]).sum())

    # not the state dict, which a strategy that splits weights would split again
    for name, tensor in (*policy.named_parameters(), *policy.named_buffers()):
        names.append(f"{name} {tensor.dtype} {tuple(tensor.shape)}")
        bits = tensor.detach().reshape(-1).view(INTEGERS.get(tensor.dtype.itemsize, torch.int32))
        if len(bits) < BLOCK:
            small.setdefault(bits.device, []).append(bits.int())
        else:
            add(bits)
    for many in small.values():
        # one after another they would take longer to ask for than to do
        add(torch.cat(many))
    digest = hashlib.sha256("\n".join(names).encode())
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
    digest = hashlib.sha256()
    for tensor in (prompt.input_ids, prompt.positions, prompt.image_grid, prompt.pixel_values):
        if tensor is not None:
            digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
