"""The draw as a class that vLLM loads by its path, in this process or in a server."""

from typing import Any

import torch
from vllm.v1.sample.logits_processor import LogitsProcessor

from lit_g2rpo.rollout.vllm.draw import BatchedDraw


class CounterDraw(BatchedDraw, LogitsProcessor):  # type: ignore[misc]  # vllm is not installed where types are checked
    """Draw the tokens of requests whose extra arguments `draw.request_arguments` made; leave others alone."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        super().__init__(device)
