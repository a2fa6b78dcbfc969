"""The prompt template that a policy was trained with, kept in its folder."""

from pathlib import Path

from transformers.utils.hub import cached_file

from lit_g2rpo.policy.loading import resolve_path

PROMPT_TEMPLATE = "prompt_template.jinja"
"""File in a policy's folder, next to the chat template."""


def prompt_template_of(path: str) -> str | None:
    """Read the prompt template that a policy was trained with.

    Args:
        path: a policy, as in ``model.policy.path``.

    Returns:
        Jinja text; None if the folder has none.
    """
    try:
        found = cached_file(
            resolve_path(path),
            PROMPT_TEMPLATE,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
    except OSError:
        # there is no such policy; loading it gives a better error
        return None
    return Path(found).read_text(encoding="utf-8") if found else None
