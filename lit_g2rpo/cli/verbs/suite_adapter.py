"""An adapter of this project's policies for evaluation suites: it requests the tags, and passes on only the answer.

``eval-export`` copies this file to its output folder, where it runs without this package, next to a copy of
``envelope.py`` and the file ``settings.json``.
"""

import copy
from typing import Any

# How suites request short answers, and the equivalent for an answer between tags.
REQUESTS = {
    "Answer with the option's letter from the given choices directly.": "The answer is the letter of the right option.",
    "Answer with the option letter from the given choices directly.": "The answer is the letter of the right option.",
    "Answer the question using a single word or phrase.": "The answer is a single word or phrase.",
    "Answer the question with a single word.": "The answer is a single word.",
    "Please select the correct answer from the options above.": "The answer is the letter of the right option.",
}


def with_instruction(messages: list[dict[str, Any]], instruction: str) -> list[dict[str, Any]]:
    """Request the tags at the end of the last user turn, instead of a bare answer.

    Args:
        messages: chat messages, whose content is a text or a list of items; not modified.

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
    """Remove reasoning and tags from a completion.

    Args:
        envelope: the function of that name in ``envelope.py``.

    Returns:
        The answer, or else everything after the reasoning, so that the suite itself parses a policy that does not know
        the tags; empty if the reasoning does not end.
    """
    parts = envelope(text, thinking_tag, answer_tag)
    return str(parts.tail if parts.answer is None else parts.answer)
