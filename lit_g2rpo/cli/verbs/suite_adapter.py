"""What an evaluation suite must do around this project's policies: ask for the tags, and hand on the answer alone.

This file is copied into the folder that ``eval-export`` writes and runs there without this package, beside a copy of
``envelope.py`` and the file ``settings.json``.
"""

import copy
from typing import Any

# How suites ask for short answers, and what that means where the answer stands between tags.
REQUESTS = {
    "Answer with the option's letter from the given choices directly.": "The answer is the letter of the right option.",
    "Answer with the option letter from the given choices directly.": "The answer is the letter of the right option.",
    "Answer the question using a single word or phrase.": "The answer is a single word or phrase.",
    "Answer the question with a single word.": "The answer is a single word.",
    "Please select the correct answer from the options above.": "The answer is the letter of the right option.",
}


def with_instruction(messages: list[dict[str, Any]], instruction: str) -> list[dict[str, Any]]:
    """Ask for the tags at the end of the last user turn, in the place of requests for a bare answer.

    Args:
        messages: chat messages, content a text or a list of items; not changed.

    Raises:
        ValueError: if there is no user turn.
    """
    messages = copy.deepcopy(messages)
    for message in reversed(messages):
        if message["role"] != "user":
            continue
        content = message["content"]
        items = [{"type": "text", "text": content}] if isinstance(content, str) else content
        for item in items:
            if item["type"] == "text":
                for request, form in REQUESTS.items():
                    item["text"] = item["text"].replace(request, form)
        message["content"] = [*items, {"type": "text", "text": f"\n{instruction}"}]
        return messages
    raise ValueError("the messages hold no user turn")


def answer_alone(text: str, envelope: Any, thinking_tag: str, answer_tag: str) -> str:
    """Take reasoning and tags off a completion.

    Args:
        envelope: the function of that name in ``envelope.py``.

    Returns:
        The answer, else all that stands behind the reasoning, so that a policy that does not know the tags is graded by
        the suite's own reading; an empty text where the reasoning does not end.
    """
    parts = envelope(text, thinking_tag, answer_tag)
    return str(parts.tail if parts.answer is None else parts.answer)
