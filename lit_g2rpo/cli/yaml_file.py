"""A check, before the parser reads a config file, that it is YAML without duplicate keys."""

from pathlib import Path
from typing import Any

import yaml

from lit_g2rpo.errors import UserError


def read_yaml(where: str, path: Path) -> Any:
    """Read the keys of a file.

    Args:
        where: the file and what refers to it, for messages.
        path: a file that exists.

    Returns:
        Its keys and values; None if only the parser can read them.

    Raises:
        UserError: if it is not YAML, or has no keys or duplicate ones.
    """
    try:
        text = path.read_text(encoding="utf-8")
        tree = yaml.compose(text, yaml.SafeLoader)
    except UnicodeDecodeError:
        raise UserError(f"{where}: a config must be a text in UTF-8") from None
    except OSError as error:
        raise UserError(f"{where} cannot be read ({error.strerror})") from None
    except yaml.reader.ReaderError as error:
        raise UserError(f"{where} is not YAML: {error.reason}") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        tab = "; indent with spaces, not tabs" if "\\t" in str(error.problem) else ""
        line = f" in line {mark.line + 1}" if mark else ""
        raise UserError(f"{where} is not YAML: {error.problem}{line}{tab}") from None
    if not isinstance(tree, yaml.MappingNode):
        raise UserError(f"{where} has no keys; give a recipe, such as configs/g2rpo.yaml")
    _check_keys(where, tree)
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return None


def _check_keys(where: str, tree: yaml.Node) -> None:
    nodes: list[tuple[str, yaml.Node]] = [("", tree)]
    for place, node in nodes:
        if isinstance(node, yaml.SequenceNode):
            nodes += [(place, inner) for inner in node.value]
        if not isinstance(node, yaml.MappingNode):
            continue
        seen: set[str] = set()
        for name, value in node.value:
            key = f"{place}.{name.value}".lstrip(".")
            if name.value in seen and name.value != "<<":
                raise UserError(f"{where} has {key} twice, again in line {name.start_mark.line + 1}; give it once")
            seen.add(str(name.value))
            nodes.append((key, value))
