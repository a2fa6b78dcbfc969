"""The JSON of a server: what it says about itself, and a group of completions as request and reply."""

import base64
from typing import Any, TypeVar

import msgspec
import torch
from msgspec import Struct
from torch import Tensor

from lit_g2rpo.experience import Completion
from lit_g2rpo.policy.policy import Policy
from lit_g2rpo.rollout.engine import Sampling
from lit_g2rpo.rollout.vllm.draw import TOP, read
from lit_g2rpo.rollout.vllm.inputs import MediaInput, PromptInput
from lit_g2rpo.rollout.vllm.request import own_draw
from lit_g2rpo.rollout.vllm.server.wire import AwayError

RAW = 3
"""Code of vLLM's msgpack extension for the bytes of a tensor."""

T = TypeVar("T")


class Serves(Struct):
    """How a server's engine was started; `gate.serves` describes the fields."""

    model: str
    dtype: str
    sizes: dict[str, int]
    max_model_len: int
    max_num_seqs: int
    logits_processors: list[str]
    logprobs_mode: str
    weight_transfer: str
    workers: int
    normalizes: bool
    splits: bool


class State(Struct):
    """A server at a moment.

    Args:
        version: version of its weights.
        paused: True if it answers no request for completions.
        tokens: number of tokens that it has read and written since its start.
        serves: how its engine was started.
    """

    version: str
    paused: bool
    tokens: int
    serves: Serves


class _Value(Struct):
    logprob: float


class _Token(Struct):
    top_logprobs: list[_Value]


class _Logprobs(Struct):
    content: list[_Token]


class _Span(Struct):
    version: str


class _Choice(Struct):
    index: int
    finish_reason: str
    token_ids: list[int]
    logprobs: _Logprobs
    weight_versions: list[_Span]


class _Reply(Struct):
    choices: list[_Choice]


def parsed(body: bytes, kind: type[T]) -> T:
    """Read a server's JSON.

    Raises:
        AwayError: if it is something else.
    """
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise AwayError(f"an answer that is not vLLM's ({error}): {body[:60]!r}") from error


def group_request(
    prompt: PromptInput,
    prompt_id: str,
    group_size: int,
    sampling: Sampling,
    policy: Policy,
) -> bytes:
    """Return the body of a request for a group of completions.

    Args:
        prompt_id: id of the prompt, which seeds its completions.
        policy: the policy, of which only ids of tokens are used.
    """
    body: dict[str, Any] = {
        "token_ids": prompt.token_ids,
        "sampling_params": {
            **own_draw(policy, sampling, prompt_id, 0),
            "n": group_size,
            # the draw adds a choice's seed to the index of the group's first completion
            "seed": 0,
            # vLLM refuses several choices of a greedy request
            "temperature": 1.0,
        },
    }
    if prompt.images:
        body["features"] = {
            "mm_hashes": {"image": [image.digest for image in prompt.images]},
            "mm_placeholders": {"image": [{"offset": image.offset, "length": image.length} for image in prompt.images]},
            "kwargs_data": {"image": [_packed(image) for image in prompt.images]},
        }
    return msgspec.json.encode(body)


def group_of(body: bytes, group_size: int, version: str, max_tokens: int, ends: list[int]) -> list[Completion]:
    """Read a group of completions, without their texts.

    Args:
        body: the server's reply.
        version: version of the weights that must have written every token.
        max_tokens: longest completion.
        ends: ids that end a completion.

    Raises:
        AwayError: if it is something else, or of other weights, as after a restart.
    """
    choices = sorted(parsed(body, _Reply).choices, key=lambda choice: choice.index)
    if [choice.index for choice in choices] != list(range(group_size)):
        raise AwayError(f"{len(choices)} completions, where {group_size} were asked for")
    return [_completion(choice, version, max_tokens, ends) for choice in choices]


def _completion(choice: _Choice, version: str, max_tokens: int, ends: list[int]) -> Completion:
    others = {span.version for span in choice.weight_versions} - {version}
    if others or not choice.weight_versions:
        raise AwayError(f"its weights are of version {', '.join(sorted(others)) or 'none'}, not {version}")
    ids, content = choice.token_ids, choice.logprobs.content
    values = [[value.logprob for value in token.top_logprobs] for token in content]
    truncated = choice.finish_reason == "length"
    whole = len(ids) == max_tokens if truncated else choice.finish_reason == "stop" and bool(ids) and ids[-1] in ends
    if not whole or len(content) != len(ids) or any(len(row) != TOP for row in values):
        raise AwayError(f"a completion that is not whole ({choice.finish_reason}, {len(ids)} tokens)")
    try:
        logprobs, entropy = read(torch.tensor(values, dtype=torch.float32))
    except RuntimeError as error:
        raise AwayError(str(error)) from error
    return Completion(torch.tensor(ids, dtype=torch.long), logprobs, entropy, "", truncated)


def _packed(image: MediaInput) -> str:
    """Return an image as vLLM sends it between its own processes: msgpack in base 64."""
    patches = {"slices": [[[0, len(image.patches), None]]], "dim": 0, "keep_on_cpu": False}
    item = {
        "pixel_values": {"data": _tensor(image.patches), "field": ["flat", patches]},
        "image_grid_thw": {"data": _tensor(image.grid), "field": ["batched", {"keep_on_cpu": True}]},
    }
    return base64.b64encode(msgspec.msgpack.encode(item)).decode()


def _tensor(tensor: Tensor) -> list[Any]:
    data = tensor.contiguous().numpy().tobytes()
    return [str(tensor.dtype).removeprefix("torch."), list(tensor.shape), msgspec.msgpack.Ext(RAW, data)]
