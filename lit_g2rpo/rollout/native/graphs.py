"""CUDA graphs of decoding steps; runs only on CUDA."""

from collections.abc import Callable

import torch

from lit_g2rpo.rollout.native.slots import StepShape

Step = Callable[[StepShape], None]


def captured(step: Step) -> Step:
    """Capture a step once for each shape and replay it afterwards.

    Graphs record addresses, not values, so weights may be updated in place. They are freed with the returned function,
    so they hold no memory during training; capturing again costs a few steps.

    Args:
        step: reads and writes tensors whose addresses stay the same.

    Returns:
        A function that does the same.
    """
    graphs: dict[StepShape, torch.cuda.CUDAGraph] = {}
    pool = torch.cuda.graph_pool_handle()
    warm: set[StepShape] = set()

    def replay(shape: StepShape) -> None:
        if shape not in warm:
            # The first step of a shape runs directly, because libraries allocate in it, which a capture forbids.
            warm.add(shape)
            step(shape)
            return
        if shape not in graphs:
            graphs[shape] = torch.cuda.CUDAGraph()
            # Another thread scores complete groups, perhaps on this device, so only this thread's calls are captured.
            with torch.cuda.graph(graphs[shape], pool=pool, capture_error_mode="thread_local"):
                step(shape)
        graphs[shape].replay()

    return replay
