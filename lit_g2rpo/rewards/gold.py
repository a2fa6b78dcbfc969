"""Checks of gold answers: the completion that should score 1, and the reason if it does not."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from lit_g2rpo.errors import UserError
from lit_g2rpo.rewards.answers.choice import choice
from lit_g2rpo.rewards.answers.parse import envelope, unbox, unwrap
from lit_g2rpo.rewards.answers.references import references, text_list
from lit_g2rpo.rewards.answers.structured import json_value
from lit_g2rpo.rewards.compose import score
from lit_g2rpo.rewards.config import DEFAULT, RewardConfig
from lit_g2rpo.rewards.problem_type import ProblemType
from lit_g2rpo.rewards.problem_types import known_problem_type, problem_type_named
from lit_g2rpo.rewards.rows.canonical import canonical
from lit_g2rpo.rewards.rows.values import shown

LEAST_DEMONSTRATED = 0.5
"""Accuracy below which two answers count as different; boxes and transcriptions get partial credit."""


def gold_completion(sample: Mapping[str, Any], config: RewardConfig = DEFAULT) -> str:
    """Write the completion that a row's gold answer calls for: empty reasoning, then the answer.

    Args:
        sample: a row in any accepted format; without a gold answer the answer block is empty.
        config: supplies the tags.

    Raises:
        ValueError: if the row cannot be understood.
    """
    row = canonical(sample)
    answer = _bare(row)
    kind = known_problem_type(row["problem_type"])
    if kind is not None and kind.from_gold is not None:
        answer = kind.from_gold(answer)
    think, tag = config.thinking_tag, config.answer_tag
    return f"<{think}></{think}><{tag}>{answer}</{tag}>"


def gold_error(sample: Mapping[str, Any], config: RewardConfig = DEFAULT) -> str | None:
    """Say in one line why a row's gold answer does not score 1 against itself; None if it does.

    Args:
        sample: a row in any accepted format.
    """
    try:
        row = canonical(sample)
        kind = problem_type_named(row["problem_type"])
    except (ValueError, UserError) as reason:
        return str(reason)
    if "answer" not in row:
        return "has no gold answer; give it in 'answer'"
    answer, wanted = row["answer"], kind.gold_form_of(row)
    if not kind.structured and (wrong := _list_error(unwrap(answer), kind)):
        return f"answer {shown(answer)} {wrong}; it must be {wanted}"
    golds = _references(row)
    for one in [row] if len(golds) < 2 else [{**row, "answer": gold} for gold in golds]:
        if wrong := _error(one, kind, config):
            return wrong
    if kind.options and len({choice(unbox(one), row["options"]) for one in golds} - {None}) > 1:
        return f"answer {shown(answer)} names several options; it must be {wanted}"
    return None


def demonstration_error(row: Mapping[str, Any], config: RewardConfig) -> str | None:
    """Say in one line why a row's completion to imitate is malformed; None if it is fine or missing.

    Args:
        row: a row in canonical shape.
        config: supplies the tags to look for, besides the two usual reasoning tags.
    """
    text = row.get("demonstration")
    if not isinstance(text, str):
        return None
    think, tag = config.thinking_tag, config.answer_tag
    form = f"<{think}>...</{think}><{tag}>...</{tag}>"
    read = next((name for name in (think, "thinking", "think") if envelope(text, name, tag).well_formed), None)
    if read is None:
        return f"'demonstration' is {shown(text)}; it must be {form}"
    if "answer" not in row:
        return None
    result = score(text, row, replace(config, thinking_tag=read, min_reasoning=0))
    if result.accuracy < LEAST_DEMONSTRATED and result.error != "no_reward":
        found = envelope(text, read, tag).answer or ""
        return f"'demonstration' answers {shown(found)} but 'answer' is {shown(row['answer'])}; one of them is wrong"
    return None


def _list_error(answer: str, kind: ProblemType) -> str | None:
    """Say what is wrong with a gold answer that is JSON although the policy's answer is not."""
    if answer[:1] not in ("[", "{"):
        return None
    found = json_value(answer) if kind.verbatim else text_list(answer) or json_value(answer)
    if not isinstance(found, dict | list):
        quoted = kind.references and not kind.verbatim and answer[1:].lstrip()[:1] in ("'", '"')
        return "begins as a list of texts does, but cannot be read as JSON or Python" if quoted else None
    texts = isinstance(found, list) and bool(found) and all(isinstance(item, str) for item in found)
    if kind.verbatim:
        return "lists texts, of which problem_type 'document' takes any" if texts else None
    # in mathematics, [1, 2] is an interval
    if kind.references and not (all(map(str.strip, found)) if texts else kind.unreadable and _are_numbers(found)):
        return "is JSON, but no list of texts, none of them empty"
    return None


def _are_numbers(value: Any) -> bool:
    if isinstance(value, list):
        return bool(value) and all(map(_are_numbers, value))
    return type(value) in (int, float)


def _error(row: Mapping[str, Any], kind: ProblemType, config: RewardConfig) -> str | None:
    name, answer, wanted = row["problem_type"], shown(row["answer"]), kind.gold_form_of(row)
    result = score(gold_completion(row, config), row, config)
    if result.error == "no_reward":
        rouge = ", or set model.reward.open_ended to rouge_l" if name == "open-ended" else ""
        return f"{name!r} has no built-in reward: name one in data.tasks.<task>.reward: my_module.my_function{rouge}"
    if result.accuracy < 1:
        why = result.error or f"scores {result.accuracy:g} against itself"
        return f"answer {answer} cannot be scored ({why}); it must be {wanted}"
    lettered = kind.options and row["options"]
    if kind.unreadable and not lettered and (reason := kind.unreadable(_bare(row))):
        return f"answer {answer} {reason}; it must be {wanted}"
    if kind.structured and _has_fractions(json_value(_bare(row))):
        return f"answer {answer} holds fractions of the image; times 1000 it would be {wanted}"
    return None


def _references(row: Mapping[str, Any]) -> list[str]:
    answer, kind = unwrap(row.get("answer", "")), known_problem_type(row["problem_type"])
    return references(answer) if kind is not None and kind.references else [answer]


def _bare(row: Mapping[str, Any]) -> str:
    kind = known_problem_type(row["problem_type"])
    answer = next(iter(_references(row)), "")
    return answer if kind is None or kind.verbatim else unbox(answer)


def _has_fractions(value: Any) -> bool:
    """Return whether all coordinates, or those of one box, are fractions of the image."""
    lists = list(_coordinates(value))
    places = [place for one in lists for place in one]
    return bool(places) and (max(places) <= 1 or any(len(one) == 4 and max(one) <= 1 for one in lists))


def _coordinates(value: Any) -> Iterator[list[float]]:
    """Find the lists of numbers in JSON at any depth."""
    if isinstance(value, dict):
        value = [item for key, item in value.items() if key != "time"]
    if isinstance(value, list):
        if numbers := [item for item in value if isinstance(item, int | float)]:
            yield numbers
        for item in value:
            yield from _coordinates(item)
