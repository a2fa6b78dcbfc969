"""Gold answers: the completion that should score 1, and why it does not."""

from collections.abc import Iterator, Mapping
from typing import Any

from lit_g2rpo.errors import UserError
from lit_g2rpo.rewards.answers.parse import unbox, unwrap
from lit_g2rpo.rewards.answers.structured import json_value
from lit_g2rpo.rewards.compose import score
from lit_g2rpo.rewards.config import DEFAULT, RewardConfig
from lit_g2rpo.rewards.problem_types import known_problem_type, problem_type_named
from lit_g2rpo.rewards.rows.canonical import canonical

MAX_SHOWN = 80


def gold_completion(sample: Mapping[str, Any], config: RewardConfig = DEFAULT) -> str:
    """Write the completion that a row's gold answer asks for: empty reasoning, and the answer.

    Args:
        sample: a row of any accepted format; without a gold answer the block is empty.
        config: its tags are used.

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
        sample: a row of any accepted format.
    """
    try:
        row = canonical(sample)
        kind = problem_type_named(row["problem_type"])
    except (ValueError, UserError) as reason:
        return str(reason)
    if "answer" not in row:
        return "has no gold answer; give it in 'answer'"
    result = score(gold_completion(row, config), row, config)
    if result.error == "no_reward":
        name = row["problem_type"]
        rouge = ", or set model.reward.open_ended to rouge_l" if name == "open-ended" else ""
        return f"{name!r} has no built-in reward: name one in data.tasks.<task>.reward: my_module.my_function{rouge}"
    wanted = kind.gold_form_of(row)
    if result.accuracy < 1:
        why = result.error or f"scores {result.accuracy:g} against itself"
        return f"answer {_shown(row['answer'])} cannot be scored ({why}); it must be {wanted}"
    places = list(_coordinates(json_value(_bare(row)))) if kind.structured else []
    if places and max(places) <= 1:
        return f"answer {_shown(row['answer'])} holds fractions of the image; times 1000 it would be {wanted}"
    return None


def _bare(row: Mapping[str, Any]) -> str:
    answer, kind = unwrap(row.get("answer", "")), known_problem_type(row["problem_type"])
    return answer if kind is None or kind.verbatim else unbox(answer)


def _coordinates(value: Any) -> Iterator[float]:
    if isinstance(value, dict):
        value = [item for key, item in value.items() if key != "time"]
    if isinstance(value, list):
        for item in value:
            yield from _coordinates(item)
    elif isinstance(value, int | float):
        yield value


def _shown(answer: str) -> str:
    return repr(answer if len(answer) <= MAX_SHOWN else answer[: MAX_SHOWN - 3] + "...")
