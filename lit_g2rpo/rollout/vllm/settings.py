"""How vLLM must be set up to sample as the trainer does, in this process or as a server."""

from typing import Any

from lit_g2rpo.rollout.vllm.draw import LOGPROBS_MODE, PROCESSOR

CPU_KV_GIB = 1.0
"""Default size of the key-value cache on the CPU, GiB."""


def engine_settings(
    *, own_draw: bool, dtype: str, max_rows: int, max_model_len: int | None, eager: bool
) -> dict[str, Any]:
    """Return the arguments of ``vllm.LLM`` that decide what is sampled; a server takes them as flags.

    Args:
        own_draw: whether `processor.CounterDraw` draws, instead of vLLM.
        dtype: type of weights and activations: ``float32``, ``bfloat16`` or ``float16``.
        max_rows: most rows decoded at a time.
        max_model_len: most tokens of prompt and completion together; None for as many as model and memory allow.
        eager: whether to run without compiling, and without graphs.
    """
    settings: dict[str, Any] = {
        "dtype": dtype,
        "max_num_seqs": max_rows,
        "max_model_len": -1 if max_model_len is None else max_model_len,
        "enforce_eager": eager,
        "seed": 0,
        # not top-p and top-k of the checkpoint
        "generation_config": "vllm",
        "enable_prefix_caching": True,
        # the trainer has normalized the pixels
        "mm_device_do_normalize": False,
        # there is nothing to preprocess, so nothing to keep of it
        "mm_processor_cache_gb": 0,
    }
    if own_draw:
        return settings | {"logits_processors": [PROCESSOR], "logprobs_mode": LOGPROBS_MODE}
    # a generator of the CPU cannot skip the draws of a prompt that is read in parts
    return settings | {"logprobs_mode": "raw_logprobs", "enable_chunked_prefill": False}
