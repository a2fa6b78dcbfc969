"""Imports between modules, read from the sources."""

import ast
from collections.abc import Iterator
from pathlib import Path

from helpers.paths import ROOT

# on Python 3.11, rglob does not follow the link to callbacks
FILES = sorted({*(ROOT / "lit_g2rpo").rglob("*.py"), *(ROOT / "callbacks").rglob("*.py")})
FILES = [path for path in FILES if (ROOT / "lit_g2rpo" / "callbacks") not in path.parents]


def module_of(path: Path) -> str:
    """Return the dotted name by which a file is imported."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts if parts[0] == "lit_g2rpo" else ("lit_g2rpo", *parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 2 else parts)


def part_of(path: Path) -> str:
    """Room, or module at the package's top, that a file belongs to."""
    return module_of(path).split(".")[1]


def imports(tree: ast.AST, inside: bool = False) -> Iterator[tuple[str, bool]]:
    """Return the modules that a file imports, and whether inside a function or only for type checking."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, inside) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield str(node.module), inside
            if str(node.module).startswith("lit_g2rpo"):
                yield from ((f"{node.module}.{alias.name}", inside) for alias in node.names)
        else:
            lazy = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            typing = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
            yield from imports(node, inside or lazy or typing)


def graph() -> dict[str, set[str]]:
    """Return the package's modules that each module imports, anywhere in the file."""
    modules = {module_of(path): path for path in FILES}
    edges: dict[str, set[str]] = {}
    for module, path in modules.items():
        found: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                # a name is a module of the package, or is defined in the package itself
                names = {f"{node.module}.{alias.name}" for alias in node.names}
                found |= {name if name in modules else str(node.module) for name in names}
        edges[module] = found & modules.keys() - {module}
    return edges
