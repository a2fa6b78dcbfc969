"""vLLM in each process of a run on several ranks: how its engines find each other in the run's process group."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist

from lit_g2rpo.errors import UserError
from lit_g2rpo.experience import Prompt
from lit_g2rpo.policy.encoding import EncodedPrompt
from lit_g2rpo.policy.policy import Policy


def rank_count() -> int:
    """Return the number of ranks of the run in progress."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank_arguments(tensor_parallel: int = 1) -> dict[str, Any]:
    """Return the arguments of a ``vllm.LLM`` that runs in each rank; it is built on all ranks together.

    Args:
        tensor_parallel: neighboring ranks that share one engine.

    Raises:
        UserError: if the ranks do not divide into such groups.
    """
    count = rank_count()
    if tensor_parallel < 1 or count % tensor_parallel:
        raise UserError(
            f"model.rollout.engine_options.tensor_parallel is {tensor_parallel}, but the run has {count} ranks; give a "
            "number that divides them"
        )
    if count == 1:
        return {}
    return {"distributed_executor_backend": "external_launcher", "tensor_parallel_size": tensor_parallel}


@contextmanager
def rank_environment(device: torch.device) -> Iterator[None]:
    """Set the variables from which vLLM learns its rank, while an engine is built.

    Args:
        device: this rank's device.
    """
    if rank_count() == 1:
        yield
        return
    ours = {
        "RANK": str(dist.get_rank()),
        "WORLD_SIZE": str(dist.get_world_size()),
        "LOCAL_RANK": str(device.index or 0),
    }
    before = {name: os.environ.get(name) for name in ours}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def shared_prompts(policy: Policy, prompts: list[Prompt], tensor_parallel: int) -> tuple[list[Prompt], int]:
    """Collect the prompts of all ranks that share an engine, each of which runs all of them.

    Args:
        policy: encodes the prompts.
        prompts: this rank's.
        tensor_parallel: ranks that share the engine, which has started.

    Returns:
        All prompts, those of other ranks as tokens and patches only, and the index of this rank's first.
    """
    if tensor_parallel == 1:
        return prompts, 0
    from vllm.distributed.parallel_state import get_tp_group

    group = get_tp_group()
    own = [(prompt.id, policy.encode(prompt)) for prompt in prompts]
    of_ranks: list[list[tuple[str, EncodedPrompt]]] = [[] for _ in range(tensor_parallel)]
    dist.all_gather_object(of_ranks, own, group=group.cpu_group)
    everyone = [
        Prompt(name, "", "", messages=[], images=[], sample={}, encoded=encoded)
        for of_rank in of_ranks
        for name, encoded in of_rank
    ]
    first = sum(map(len, of_ranks[: group.rank_in_group]))
    everyone[first : first + len(prompts)] = prompts
    return everyone, first
