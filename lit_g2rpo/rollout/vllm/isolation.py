"""What vLLM changes in the process it runs in, undone."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def isolated(device: torch.device) -> Iterator[None]:
    """Keep the trainer's random state, threads and modes of torch out of vLLM, and vLLM's changes out of them.

    Args:
        device: where vLLM computes.
    """
    states = random.getstate(), np.random.get_state()
    count, set_count = torch.get_num_threads(), torch.set_num_threads
    devices = [device] if device.type == "cuda" else []
    # on the CPU, compiling the one function that it compiles takes longer than a small run's rollouts
    stance = torch.compiler.set_stance("force_eager" if device.type == "cpu" else "default")
    try:
        with (
            torch.random.fork_rng(devices),
            torch.autocast(device.type, enabled=False),
            stance,
            # weights that are made in a validation's inference mode could not be changed in training
            torch.inference_mode(False),
            torch.no_grad(),
        ):
            yield
    finally:
        # on the CPU, vLLM replaces it by a function that only warns
        torch.set_num_threads = set_count
        if torch.get_num_threads() != count:
            torch.set_num_threads(count)
        random.setstate(states[0])
        np.random.set_state(states[1])
