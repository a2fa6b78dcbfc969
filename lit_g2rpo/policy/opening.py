"""The tag that a chat template opens before the policy writes."""

import re
from typing import Any

_OPENED = re.compile(r"<([A-Za-z][\w-]{0,63})>\s{0,16}\Z", re.ASCII)


def opened_text(processor: Any) -> str:
    r"""Read the part of a completion that the chat template writes, such as ``<think>\n`` for Qwen3-VL-Thinking.

    Args:
        processor: converts chat messages to a prompt.

    Returns:
        The tag at the end of the generation prompt, with the whitespace after it; empty if there is none.
    """
    messages = [{"role": "user", "content": [{"type": "text", "text": "."}]}]
    prompt = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    found = _OPENED.search(prompt)
    # some families write a role or the beginning of a text like a tag
    if found is None or f"<{found[1]}>" in processor.tokenizer.all_special_tokens:
        return ""
    return found[0]


def opened_tag(text: str) -> str:
    """Return the name of the tag in the text that a template opens; empty if there is none."""
    return text.strip().removeprefix("<").removesuffix(">")
