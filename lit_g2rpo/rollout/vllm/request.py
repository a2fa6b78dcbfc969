"""What vLLM is asked for, as plain JSON: fields of its ``SamplingParams``."""

from typing import Any

import numpy as np

from lit_g2rpo.policy.policy import Policy
from lit_g2rpo.rollout.engine import Sampling
from lit_g2rpo.rollout.sampling import prompt_key
from lit_g2rpo.rollout.vllm.draw import TOP, request_arguments


def own_draw(policy: Policy, sampling: Sampling, prompt_id: str, completion: int) -> dict[str, Any]:
    """Ask for a completion whose tokens `processor.CounterDraw` draws.

    Greedy for vLLM, which then only takes the token that is left. For ``n`` choices at once, which vLLM refuses for
    greedy requests, add ``n``, ``seed`` 0 and ``temperature`` 1.

    Args:
        completion: index of the completion in its group.
    """
    extra = request_arguments(sampling, prompt_id, completion, policy.forbidden_token_ids)
    return {**_common(policy, sampling), "temperature": 0.0, "logprobs": TOP, "extra_args": extra}


def engine_draw(policy: Policy, sampling: Sampling, prompt_id: str, completion: int) -> dict[str, Any]:
    """Ask for a completion that vLLM draws itself, from a seed that is a hash of the run's counters.

    Args:
        completion: index of the completion in its group.
    """
    counters = [sampling.seed, sampling.rollout, prompt_key(prompt_id), completion, sampling.wave]
    return {
        **_common(policy, sampling),
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "seed": int(np.random.SeedSequence(counters).generate_state(1, np.uint64)[0] >> 1),
        "logprobs": 0,
        # raw log-probabilities do not see it, and the trainer's distribution has no bans either
        "logit_bias": dict.fromkeys(policy.forbidden_token_ids, -100.0),
    }


def _common(policy: Policy, sampling: Sampling) -> dict[str, Any]:
    return {
        "max_tokens": sampling.max_tokens,
        # the policy's end tokens, not those of the tokenizer that vLLM loads
        "ignore_eos": True,
        "stop_token_ids": policy.eos_token_ids,
        "detokenize": False,
    }
