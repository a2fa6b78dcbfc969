"""The question of a row and the conversation around it, from whichever column holds them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lit_g2rpo.rewards.answers.written import from_text
from lit_g2rpo.rewards.rows.media import image_of, video_of
from lit_g2rpo.rewards.rows.values import listed, missing, named, shown

IMAGE, VIDEO = "<image>", "<video>"
QUESTIONS = ("problem", "question", "query", "instruction")
TURNS = ("prompt", "messages", "conversations", "message", "conversation", "dialog", "dialogue", "chat")

_ROLES = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "model": "assistant",
    "bot": "assistant", "chatbot": "assistant", "system": "system",
}  # fmt: skip
_ROLE, _CONTENT = ("role", "from"), ("content", "value", "text")
_CHATML = re.compile(r"\s*<\|im_start\|>(\w+)\n(.*?)(?:<\|im_end\|>\s*|\Z)", re.DOTALL)
_PADS = re.compile(r"<\|vision_start\|><\|(image|video)_pad\|><\|vision_end\|>")


@dataclass(slots=True)
class Asked:
    """The question of a row.

    Args:
        problem: the question.
        earlier: turns before it, each a role and a text.
        reply: the assistant's turn after it.
        column: the column it was found in.
        chat: it was one of several turns.
    """

    problem: str
    earlier: list[tuple[str, str]] = field(default_factory=list)
    reply: str | None = None
    column: str = ""
    chat: bool = False


def take_question(rest: dict[str, Any], images: list[Any], videos: list[Any]) -> Asked:
    """Extract the question of a row and the turns around it.

    Args:
        rest: the row without nulls; the columns that are read are removed.
        images: list to which images found in turns are added.
        videos: the same for videos.

    Raises:
        ValueError: if there is no question, or it is neither a text nor a conversation.
    """
    name = next((name for name in (*QUESTIONS, *TURNS) if name in rest), None)
    if name is None:
        found = [key for key, value in rest.items() if is_turns(from_text(value))]
        if len(found) > 1 or (not found and "problem_type" not in rest):
            known = ", ".join(QUESTIONS + TURNS)
            settled = "name it in data.columns.problem (--column problem=NAME)"
            raise ValueError(f"no question: none of the columns {known}; it has {named(rest)}; {settled}")
        if not found:
            return Asked("")
        [name] = found
    given = rest.pop(name)
    value = listed(from_text(given))
    if isinstance(value, list) and isinstance(given, str) and not is_turns(value):
        value = given
    if isinstance(value, str) and name in TURNS and (written := _chatml(value)):
        return _conversation(written, rest, images, videos, name)
    if isinstance(value, str):
        return _alone(value, rest, name)
    if not is_turns(value) and value not in ([], {}):
        form = "text" if name in QUESTIONS else "text or a list of turns"
        inside = f", or name a key of it: --column {name}={name}.{next(iter(value))}" if isinstance(value, dict) else ""
        raise ValueError(f"{name!r} is {shown(value)}; it must be a {form}{inside}")
    asked = _conversation(value, rest, images, videos, name)
    asked.chat = True
    return asked


def is_turns(value: Any) -> bool:
    """Return whether this is a list of turns: objects with role and content, or with a user's and assistant's text."""
    value = listed(value)
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(turn, Mapping) and (_pair(turn) or any(key in turn for key in _ROLE)) for turn in value)
    )


def _pair(turn: Mapping[str, Any]) -> bool:
    return {"user", "assistant"} <= turn.keys()


def _alone(text: str, rest: dict[str, Any], name: str) -> Asked:
    """Read a question from its own column, with the columns that LLaMA-Factory and ms-swift write beside it."""
    asked = Asked(text, column=name)
    if name not in ("query", "instruction"):
        return asked
    if isinstance(added := rest.pop("input", None), str) and added.strip():
        asked.problem = f"{text}\n{added}"
    replies = [rest.pop(key) for key in ("output", "response") if isinstance(rest.get(key), str)]
    asked.reply = replies[0] if replies else None
    if isinstance(system := rest.get("system"), str) and system.strip():
        asked.earlier.append(("system", rest.pop("system")))
    past = listed(from_text(rest.get("history")))
    if isinstance(past, list):
        if not all(_is_exchange(pair) for pair in past):
            raise ValueError(f"'history' is {shown(past)}; it must be a list of pairs, what was asked and answered")
        del rest["history"]
        asked.earlier += [turn for said, answered in past for turn in (("user", said), ("assistant", answered))]
    return asked


def _is_exchange(pair: Any) -> bool:
    return isinstance(pair, list) and [*map(type, pair)] == [str, str]


def _conversation(turns: Any, rest: dict[str, Any], images: list[Any], videos: list[Any], name: str) -> Asked:
    texts: list[tuple[str, str]] = []
    for turn in turns:
        if _pair(turn):
            texts += [(role, _content(turn[role], images, videos)) for role in ("user", "assistant")]
            continue
        role = str(next((turn[key] for key in _ROLE if not missing(turn.get(key))), None))
        content = next((turn[key] for key in _CONTENT if not missing(turn.get(key))), None)
        texts.append((_ROLES.get(role.lower(), role), _content(content, images, videos)))
    if isinstance(rest.get("system"), str) and rest["system"].strip() and texts[:1] and texts[0][0] != "system":
        texts.insert(0, ("system", rest.pop("system")))
    start = int(bool(texts) and texts[0][0] == "system")
    roles = [role for role, _ in texts[start:]]
    if not roles or roles != ["user" if i % 2 == 0 else "assistant" for i in range(len(roles))]:
        held = named(role for role, _ in texts) or "nothing"
        raise ValueError(f"{name!r} holds {held}; it must hold user and assistant in turn, a system turn only in front")
    reply = texts.pop()[1] if roles[-1] == "assistant" else None
    return Asked(texts[-1][1], texts[:-1], reply, name)


def _chatml(text: str) -> list[dict[str, str]]:
    """Read a prompt that already went through a chat template; empty if it did not."""
    turns, at = [], 0
    for match in _CHATML.finditer(text):
        if match.start() != at:
            return []
        at = match.end()
        content = _PADS.sub(lambda pad: f"<{pad[1]}>", match[2])
        turns.append({"role": match[1], "content": content.strip()})
    if at != len(text) or not turns:
        return []
    opened = turns[-1]["role"] == "assistant" and turns[-1]["content"] in ("", "<think>", "<thinking>")
    return turns[:-1] if opened else turns


def _content(content: Any, images: list[Any], videos: list[Any]) -> str:
    content = listed(content)
    if isinstance(content, list):
        return "".join(_block(block, images, videos) for block in content)
    if isinstance(content, str | int | float) and not isinstance(content, bool):
        return str(content)
    raise ValueError(f"the content of a turn is {shown(content)}; it must be a text or a list of blocks")


def _block(block: Any, images: list[Any], videos: list[Any]) -> str:
    if isinstance(block, str):
        return block
    kind = block.get("type") if isinstance(block, Mapping) else None
    # Qwen's own blocks have no type; tables fill keys of other blocks with null
    if kind is None and isinstance(block, Mapping):
        kind = next((key for key in ("text", "image", "image_url", "video") if not missing(block.get(key))), None)
    if kind in ("text", "input_text") and isinstance(block.get("text"), str):
        return str(block["text"])
    if kind in ("image", "image_url", "input_image"):
        inside = next((block[key] for key in ("image", "image_url", "path", "url") if block.get(key) is not None), None)
        if inside is not None:
            images.append(image_of(inside))
        return IMAGE
    if kind == "video":
        if any(block.get(key) is not None for key in ("video", "path", "url")):
            videos.append(video_of({key: value for key, value in block.items() if key != "type"}))
        return VIDEO
    raise ValueError(f"a turn holds {shown(block)}; its blocks must be of type text, image or video")
