"""How an engine decodes, and what memory its own copy of the policy takes, from its settings."""

from dataclasses import dataclass

from lit_g2rpo.errors import UserError
from lit_g2rpo.planning.memory import EngineCopy, RolloutSize, cache_bytes, weight_bytes
from lit_g2rpo.planning.simulation import Phantom
from lit_g2rpo.rollout.config import RolloutConfig
from lit_g2rpo.rollout.engine import RolloutEngine
from lit_g2rpo.rollout.huggingface import HuggingFaceEngine
from lit_g2rpo.rollout.native.engine import FIXED_SLOTS, NativeEngine
from lit_g2rpo.rollout.vllm.engine import VllmEngine
from lit_g2rpo.rollout.vllm.server.engine import VllmServerEngine
from lit_g2rpo.rollout.vllm.settings import CPU_KV_GIB

GIB = 2**30

WORKSPACE = 2 * GIB
"""Memory that vLLM needs besides weights and cache: activations of the largest batch, graphs."""

SERVED = 0.9
"""Share of its device's memory that a server takes unless told otherwise."""

NATIVE_KERNELS = 42
"""Kernels per layer and step: those counted on the CPU, less views."""
HUGGING_FACE_KERNELS = 60
VLLM_KERNELS = 12
"""An assumption: norms, rotation, attention and activation are fused around four products."""


@dataclass(slots=True, frozen=True)
class Decoding:
    """How an engine decodes.

    Args:
        prompts: prompts of a rollout that it samples.
        rows: rows decoded at a time.
        batch: rows after which the next ones only start when all have ended.
        devices: devices that it is split over.
        shares_prompts: True if the keys and values of a prompt are read once per step for its whole group.
        kernels: kernels per layer and step.
        pushed: how new weights reach it: ``device`` for a copy on the same one, ``host`` for files in memory, empty if
            it samples from the trainer's.
    """

    prompts: int
    rows: int
    batch: int
    devices: int
    shares_prompts: bool
    kernels: int
    pushed: str


def engine_copy(engine: RolloutEngine, phantom: Phantom, size: RolloutSize, memory: float) -> EngineCopy | None:
    """Compute the memory of an engine's own copy of the policy.

    Args:
        memory: memory of a device, GiB.

    Returns:
        The sizes; None if the engine samples from the trainer's weights, or elsewhere.

    Raises:
        UserError: if the cache would not hold a single completion.
    """
    if not isinstance(engine, VllmEngine):
        return None
    cpu, cache = phantom.device == "cpu", cache_of(engine, phantom, memory)
    longest = size.prompt_tokens + size.completion_tokens
    needed = cache_bytes(phantom) * longest // engine.tensor_parallel
    if cache < needed:
        raise UserError(
            f"vLLM would have {max(cache, 0) / GIB:.1f} GiB for keys and values, and a completion of {longest} tokens "
            f"needs {needed / GIB:.1f}: raise model.rollout.engine_options.memory (now {engine.memory:g}), "
            "kv_gib or tensor_parallel, or lower data.max_prompt_tokens"
        )
    weights = weight_bytes(phantom, computing=True) // engine.tensor_parallel
    return EngineCopy(weights, cache, 0 if cpu else WORKSPACE, resident=engine.sleep == 0 or cpu)


def decoding(
    engine: RolloutEngine, phantom: Phantom, rollout: RolloutConfig, ranks: int, memory: float, context: float
) -> Decoding | None:
    """Determine how an engine decodes a rollout.

    Args:
        ranks: number of ranks of the trainer.
        memory: memory of a device, GiB.
        context: mean tokens of a prompt and half a completion.

    Returns:
        How; None if the engine is unknown. Servers are taken to have one device each, of the same kind.
    """
    own = -(-rollout.prompts // ranks)
    rows, most = own * rollout.group_size, min(rollout.max_rows, own * rollout.group_size)
    if isinstance(engine, NativeEngine):
        slots = engine.slots or (most if phantom.device == "cpu" else FIXED_SLOTS)
        return Decoding(own, min(slots, most), most, 1, True, NATIVE_KERNELS, "")
    if isinstance(engine, HuggingFaceEngine):
        return Decoding(own, most, most, 1, False, HUGGING_FACE_KERNELS, "")
    if isinstance(engine, VllmEngine):
        devices, cache, pushed = engine.tensor_parallel, cache_of(engine, phantom, memory), "device"
        own *= devices
    elif isinstance(engine, VllmServerEngine):
        own, devices, pushed = -(-rollout.prompts // len(engine.urls)), 1, "host"
        cache = int(SERVED * memory * GIB) - weight_bytes(phantom, computing=True) - WORKSPACE
    else:
        return None
    rows = own * rollout.group_size
    held = int(cache * devices / (cache_bytes(phantom) * context))
    return Decoding(own, max(1, min(rollout.max_rows, rows, held)), rows, devices, False, VLLM_KERNELS, pushed)


def cache_of(engine: VllmEngine, phantom: Phantom, memory: float) -> int:
    """Compute the bytes of a colocated engine's keys and values on a device."""
    cpu = phantom.device == "cpu"
    if engine.kv_gib is not None or cpu:
        return int((CPU_KV_GIB if engine.kv_gib is None else engine.kv_gib) * GIB)
    weights = weight_bytes(phantom, computing=True) // engine.tensor_parallel
    return int(engine.memory * memory * GIB) - weights - WORKSPACE
