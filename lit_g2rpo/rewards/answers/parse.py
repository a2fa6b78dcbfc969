"""Parser of a completion's envelope: reasoning and answer between tags."""

from dataclasses import dataclass

TRAILING_TOKENS = ("<|im_end|>", "<|endoftext|>")
BOXED = "\\boxed{"


@dataclass(slots=True, frozen=True)
class Envelope:
    """The parsed parts of a completion.

    Args:
        reasoning: text of the first complete reasoning block; None without one.
        answer: text of the last complete answer block after the reasoning, stripped; None without one.
        well_formed: True for one reasoning block, then one non-empty answer block, and nothing else.
        reasoning_blocks: number of opening reasoning tags.
        answer_blocks: number of opening answer tags.
        tail: all text after the reasoning, stripped.
    """

    reasoning: str | None
    answer: str | None
    well_formed: bool
    reasoning_blocks: int
    answer_blocks: int
    tail: str


def envelope(text: str, reasoning_tag: str = "thinking", answer_tag: str = "answer") -> Envelope:
    """Split a completion into reasoning and answer, in time linear in its length.

    An answer inside or before the reasoning does not count, even if the reasoning never closes.

    Source: envelope of OpenVLThinkerV2 (arXiv 2604.08539); the pattern in the released code is ambiguous.
    """
    text = _without_end_tokens(text).strip()
    think, end_think = f"<{reasoning_tag}>", f"</{reasoning_tag}>"
    open_answer, end_answer = f"<{answer_tag}>", f"</{answer_tag}>"
    first, last = text.find(think), text.rfind(end_think)
    after = last + len(end_think) if last >= 0 else 0
    reopened = text.find(think, after)
    behind = text[after:] if reopened < 0 else text[after:reopened]
    if last < 0 <= first:
        behind = ""
    answer = _last_block(behind, open_answer, end_answer)
    reasoning = _first_block(text, first, think, end_think)
    thoughts, answers = text.count(think), text.count(open_answer)
    well_formed = (
        thoughts == answers == text.count(end_think) == text.count(end_answer) == 1
        and first == 0
        and bool(answer)
        and behind.lstrip().startswith(open_answer)
        and behind.endswith(end_answer)
    )
    return Envelope(reasoning, answer, well_formed, thoughts, answers, behind.strip())


def unwrap(answer: str, answer_tag: str = "answer") -> str:
    """Remove the answer tags of a gold answer, if it has any, and the blanks inside."""
    text = answer.strip()
    start, end = f"<{answer_tag}>", f"</{answer_tag}>"
    if text.startswith(start) and text.endswith(end) and len(text) >= len(start) + len(end):
        text = text[len(start) : -len(end)]
    return text.strip()


def last_boxed(text: str) -> str | None:
    r"""Read the last closed ``\boxed{...}`` of a text, with balanced braces inside; None without one."""
    start, end = _boxed(text)
    return None if end < 0 else text[start:end].strip()


def unbox(answer: str) -> str:
    r"""Remove a ``\boxed{}`` around the whole answer; leave two boxes, or a box with text beside it, as they are."""
    body = answer.strip().removeprefix("$").removesuffix("$").strip()
    start, end = _boxed(body)
    return body[start:end].strip() if start == len(BOXED) and end == len(body) - 1 else answer


def _boxed(text: str) -> tuple[int, int]:
    """Return where the content of the last box starts and ends; the end is -1 if no box is closed."""
    found = text.rfind(BOXED)
    if found < 0:
        return -1, -1
    depth, start = 1, found + len(BOXED)
    for place in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return start, place
    return start, -1


def _without_end_tokens(text: str) -> str:
    end, before = len(text), -1
    while end != before:
        before = end
        while end and text[end - 1].isspace():
            end -= 1
        for token in TRAILING_TOKENS:
            if text.endswith(token, 0, end):
                end -= len(token)
    return text[:end]


def _last_block(text: str, start: str, end: str) -> str | None:
    opened = text.rfind(start, 0, max(text.rfind(end), 0))
    if opened < 0:
        return None
    opened += len(start)
    return text[opened : text.find(end, opened)].strip()


def _first_block(text: str, opened: int, start: str, end: str) -> str | None:
    closed = text.find(end, opened + len(start)) if opened >= 0 else -1
    return text[opened + len(start) : closed].strip() if closed >= 0 else None
