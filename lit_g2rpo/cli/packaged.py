"""The recipes and fragments in the package: ``package:objective/grpo.yaml`` names one from any folder."""

import difflib
from pathlib import Path
from typing import Any

import lit_g2rpo
from lit_g2rpo.errors import UserError

PREFIX = "package:"
YAML = (".yaml", ".yml")
FOLDER = Path(lit_g2rpo.__file__).with_name("configs")


def packaged() -> list[str]:
    """List the recipes, then the fragments, by their name after ``package:``."""
    return [
        path.relative_to(FOLDER).as_posix() for depth in ("*", "*/*") for path in sorted(FOLDER.glob(f"{depth}.yaml"))
    ]


def located(name: str) -> str:
    """Resolve ``package:objective/grpo.yaml`` to the path of that file; return every other text unchanged.

    Raises:
        UserError: if the package has no such file.
    """
    if not name.startswith(PREFIX) or not name.endswith(YAML):
        return name
    path = FOLDER / name.removeprefix(PREFIX)
    if not path.is_file():
        near = difflib.get_close_matches(name.removeprefix(PREFIX), packaged(), n=1)
        hint = f"did you mean {PREFIX}{near[0]}?" if near else "python -m lit_g2rpo recipes lists them"
        raise UserError(f"{name}: the package has no such file; {hint}")
    return str(path)


def located_words(words: list[str]) -> list[str]:
    """Locate the package files named on a command line, after a key or joined to it by ``=``."""
    found = []
    for word in words:
        key, joined, value = word.partition("=") if word.startswith("--") else ("", "", word)
        found.append(key + joined + located(value))
    return found


def located_values(value: Any) -> Any:
    """Locate the package files named in the values of a recipe, at any depth."""
    if isinstance(value, dict):
        return {key: located_values(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [located_values(inner) for inner in value]
    return located(value) if isinstance(value, str) else value


def shipped_instead(name: str) -> str:
    """Return a hint for "no such file" that the package has a file of this name; empty if it does not."""
    own = name.removeprefix(PREFIX).removeprefix("configs/").removesuffix(".yaml") + ".yaml"
    return f"; the package has it: {PREFIX}{own}" if own in packaged() else ""
