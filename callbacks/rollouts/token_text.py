"""Completions as text, token by token."""

from typing import Any

BROKEN = "\ufffd"
LONGEST_PIECE = 8


class TokenText:
    """Spell completions token by token with the policy's tokenizer, so that the pieces add up to the text.

    A character whose bytes are spread over several tokens is in the piece of the last one; the others are empty.

    Args:
        tokenizer: the policy's.
        opened: the tag that the chat template writes before the first token of each completion; empty for none.
    """

    def __init__(self, tokenizer: Any, opened: str = "") -> None:
        self._tokenizer, self.opened = tokenizer, opened
        self._alone: dict[int, str] = {}

    def pieces(self, token_ids: list[int]) -> list[str]:
        """Spell each token, including special ones."""
        found: list[str] = []
        waiting: list[int] = []
        for place, token in enumerate(token_ids):
            waiting.append(token)
            text = self._decode(waiting)
            if text.endswith(BROKEN) and len(waiting) < LONGEST_PIECE and place + 1 < len(token_ids):
                found.append("")
            else:
                found.append(text)
                waiting = []
        return found

    def _decode(self, tokens: list[int]) -> str:
        if len(tokens) > 1:
            return str(self._tokenizer.decode(tokens))
        # this call is the most expensive part, and the same tokens occur again and again
        if tokens[0] not in self._alone:
            self._alone[tokens[0]] = str(self._tokenizer.decode(tokens))
        return self._alone[tokens[0]]
