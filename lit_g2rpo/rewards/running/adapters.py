"""Adapters that call reward functions of other trainers the way those trainers do."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lit_g2rpo.errors import UserError
from lit_g2rpo.rewards.answers.parse import unwrap
from lit_g2rpo.rewards.rows.canonical import canonical

SIGNATURES = (
    "f(completion, sample), f(prompts, completions, **columns), compute_score(reward_inputs), or "
    "compute_score(data_source, solution_str, ground_truth, extra_info)"
)
OWN = {"completion", "sample", "task", "prompt", "token_ids", "images"}
VERL = {"data_source", "solution_str", "ground_truth", "extra_info"}
EASYR1 = {"reward_inputs": True, "reward_input": False, "inputs": True}
# arguments that TRL passes besides columns and that have no equivalent here
TRAINER_ONLY = {"trainer_state", "log_metric", "log_extra"}


@dataclass(slots=True, frozen=True)
class Batch:
    """``N`` completions to score, with their sources.

    Args:
        completions: what the policy wrote.
        samples: their data rows.
        tasks: names of their tasks.
        prompts: texts of their prompts; None if unknown.
        token_ids: their tokens; None if unknown.
        images: their images; None if unknown.
    """

    completions: Sequence[str]
    samples: Sequence[Mapping[str, Any]]
    tasks: Sequence[str]
    prompts: Sequence[str] | None = None
    token_ids: Sequence[Any] | None = None
    images: Sequence[Any] | None = None

    def only(self, indices: Sequence[int]) -> "Batch":
        """Return the batch of some of the completions."""

        def of(values: Sequence[Any] | None) -> Any:
            return None if values is None else [values[i] for i in indices]

        return Batch(*(of(getattr(self, name)) for name in self.__slots__))


@dataclass(slots=True, frozen=True)
class Adapter:
    """A reward function with a uniform signature.

    Args:
        call: maps a batch to the function's result, a list with one entry per completion if ``batched``.
        batched: the function takes a batch; otherwise it is called with batches of one.
        is_async: the result of ``call`` must be awaited.
        reads: which of ``images`` and ``token_ids`` it may read.
    """

    call: Callable[[Batch], Any]
    batched: bool
    is_async: bool
    reads: frozenset[str]


def adapt(function: Any, where: str) -> Adapter:
    """Determine how to call a reward function from the names of its parameters.

    Args:
        function: a function, a callable object, or a class of such objects.
        where: how messages name it.

    Raises:
        UserError: if its parameters match none of the accepted signatures, or two of them.

    Source: TRL and ms-swift (``completions`` and columns), EasyR1 (``reward_inputs``, ``REWARD_TYPE``), verl.
    """
    function = function() if inspect.isclass(function) else function
    if not callable(function):
        raise UserError(f"{where} is no function; give one of the form {SIGNATURES}")
    parameters = inspect.signature(function).parameters
    named = {name: p for name, p in parameters.items() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    first = next(iter(named), "")
    kinds = [
        kind
        for kind, fits in {
            "own": {"completion", "sample"} <= named.keys(),
            "columns": "completions" in named,
            "easyr1": first in EASYR1,
            "verl": {"solution_str", "ground_truth"} <= named.keys(),
        }.items()
        if fits
    ]
    listed = f"({', '.join(parameters)})"
    if len(kinds) != 1:
        what = "fits two of the accepted signatures" if kinds else "fits none of the accepted signatures"
        raise UserError(f"{where}{listed} {what}; accepted: {SIGNATURES}")
    needed = {name for name, p in named.items() if p.default is p.empty}
    unknown = needed - {"own": OWN, "easyr1": {first}, "verl": VERL, "columns": needed - TRAINER_ONLY}[kinds[0]]
    if unknown:
        raise UserError(f"{where}{listed} asks for {min(unknown)!r}, which is not given to it; give it a default value")
    wanted = None if open_ended else set(named)
    is_async = any(map(inspect.iscoroutinefunction, (function, type(function).__call__)))
    asked = {"images", "completion_ids", "token_ids"} if open_ended or kinds[0] == "easyr1" else set(named)
    reads = frozenset({"images"} & asked) | ({"token_ids"} if asked & {"completion_ids", "token_ids"} else set())
    if kinds[0] == "own":
        return Adapter(lambda batch: function(**_own(batch, set(named))), False, is_async, reads)
    if kinds[0] == "verl":
        return Adapter(lambda batch: function(**_chosen(_verl(batch), wanted)), False, is_async, reads)
    if kinds[0] == "columns":
        return Adapter(lambda batch: function(**_columns(batch, wanted, needed, where)), True, is_async, reads)
    if _is_batched(function, first, where):
        return Adapter(lambda batch: function(_easyr1(batch)), True, is_async, reads)
    return Adapter(lambda batch: function(_easyr1(batch)[0]), False, is_async, reads)


def gold(sample: Mapping[str, Any]) -> str | None:
    """Return the gold answer of a row without its tags; None if it has none."""
    answer = canonical(sample).get("answer")
    return None if answer is None else unwrap(answer)


def _is_batched(function: Any, first: str, where: str) -> bool:
    kind = getattr(inspect.getmodule(function), "REWARD_TYPE", None)
    if kind not in (None, "batch", "sequential"):
        raise UserError(f"{where}: REWARD_TYPE of its module is {kind!r}; it must be 'batch' or 'sequential'")
    return EASYR1[first] if kind is None else kind == "batch"


def _chosen(values: dict[str, Any], wanted: set[str] | None) -> dict[str, Any]:
    return values if wanted is None else {name: value for name, value in values.items() if name in wanted}


def _own(batch: Batch, wanted: set[str]) -> dict[str, Any]:
    def first(values: Sequence[Any] | None) -> Any:
        return None if values is None else values[0]

    values = {
        "completion": batch.completions[0],
        "sample": batch.samples[0],
        "task": batch.tasks[0],
        "prompt": first(batch.prompts),
        "token_ids": first(batch.token_ids),
        "images": first(batch.images),
    }
    return _chosen(values, wanted)


def _verl(batch: Batch) -> dict[str, Any]:
    sample = batch.samples[0]
    extra = sample.get("extra_info")
    return {
        "data_source": sample.get("data_source", ""),
        "solution_str": batch.completions[0],
        "ground_truth": gold(sample),
        "extra_info": extra if isinstance(extra, dict) else dict(sample),
    }


def _easyr1(batch: Batch) -> list[dict[str, Any]]:
    inputs = []
    for i, (completion, sample) in enumerate(zip(batch.completions, batch.samples, strict=True)):
        own: dict[str, Any] = {"response": completion, "ground_truth": gold(sample), "task_type": batch.tasks[i]}
        if batch.token_ids is not None:
            own["response_length"] = len(batch.token_ids[i])
        if batch.images is not None:
            own["images"] = batch.images[i]
        inputs.append({**sample, **own})
    return inputs


def _columns(batch: Batch, wanted: set[str] | None, needed: set[str], where: str) -> dict[str, Any]:
    rows = [_row(sample) for sample in batch.samples]
    names = {name for row in rows for name in row} if wanted is None else wanted
    values: dict[str, Any] = {name: [row.get(name) for row in rows] for name in names if any(name in r for r in rows)}
    values["task"] = list(batch.tasks)
    # TRL passes turns if the row's prompt is a list of turns
    chats = [_turns(sample) for sample in batch.samples]
    answers = zip(chats, batch.completions, strict=True)
    values["completions"] = [text if chat is None else [_turn("assistant", text)] for chat, text in answers]
    prompts = [None] * len(chats) if batch.prompts is None else batch.prompts
    known = batch.prompts is not None or any(chat is not None for chat in chats)
    values["prompts"] = [chat or text for chat, text in zip(chats, prompts, strict=True)] if known else None
    values["completion_ids"] = None if batch.token_ids is None else list(batch.token_ids)
    if batch.images is not None:
        values["images"] = list(batch.images)
    if missing := needed - values.keys():
        columns = ", ".join(sorted({name for row in rows for name in row}))
        raise UserError(f"{where} asks for the column {min(missing)!r}, which no row has; the columns are {columns}")
    return _chosen(values, wanted)


def _turns(sample: Mapping[str, Any]) -> list[dict[str, str]] | None:
    """Return the prompt of a row as turns; None if it is a text."""
    row = canonical(sample)
    if not row.get("conversational"):
        return None
    earlier = [_turn(turn["role"], turn["content"]) for turn in row.get("earlier_turns", ())]
    return [*earlier, _turn("user", row["problem"])]


def _turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _row(sample: Mapping[str, Any]) -> dict[str, Any]:
    """Return the row with its gold answer added under the names that TRL and ms-swift functions use."""
    answer = gold(sample)
    return {"solution": answer, "ground_truth": answer, **canonical(sample), **sample}
