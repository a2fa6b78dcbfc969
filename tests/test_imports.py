"""Who may import whom: each level sees only the levels before it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# parts of one level may import each other unless SEPARATE says not
LEVELS = [
    {"errors"},
    {"objectives", "rewards"},
    {"experience", "tasks", "schedule", "quiet", "checkpoints", "outputs", "calibration"},
    {"policy", "rollout", "data", "metrics"},
    # what the module is made of
    {"module", "collect", "describe", "distributed", "microbatches", "scoring", "step_metrics", "evaluation"}
    | {"evaluation_steps", "guards", "resume", "task_gradients", "worst_case", "background"}
    | {"planning"},
    {"callbacks", "strategies", "mini"},
    {"cli", "parser", "commands", "__main__"},
]
LEVEL = {part: number for number, level in enumerate(LEVELS) for part in level}
SEPARATE = [{"callbacks", "strategies"}, {"objectives", "rewards"}]
# package: the one folder that may import it, inside functions only
OPTIONAL = {
    "deepspeed": "strategies",
    "torch_xla": "strategies",
    "torch_neuronx": "strategies",
    "vllm": "rollout",
    "peft": "policy",
    "av": "data",
}
# on 3.11 rglob does not follow the link to callbacks
FILES = sorted({*(ROOT / "lit_g2rpo").rglob("*.py"), *(ROOT / "callbacks").rglob("*.py")})
FILES = [path for path in FILES if (ROOT / "lit_g2rpo" / "callbacks") not in path.parents]


def part_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return "callbacks" if parts[0] == "callbacks" else parts[1]


def imports(tree: ast.AST, inside: bool = False) -> Iterator[tuple[str, bool]]:
    """Modules that a file imports, and whether inside a function or for type checking only."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, inside) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield str(node.module), inside
            if node.module == "lit_g2rpo":
                yield from ((f"lit_g2rpo.{alias.name}", inside) for alias in node.names)
        else:
            lazy = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            typing = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
            yield from imports(node, inside or lazy or typing)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_imports_only_what_lies_below_it(path: Path) -> None:
    part = part_of(path)
    if part == "__init__":
        return
    assert part in LEVEL, f"{part} has no level yet: say in LEVELS what it may import"
    for name, inside in imports(ast.parse(path.read_text())):
        root = name.split(".")[0]
        assert root != "pytorch_lightning", "its classes are not those of lightning.pytorch"
        if root in OPTIONAL:
            assert inside, f"{root} is optional: import it inside the function that needs it"
            assert part == OPTIONAL[root], f"{root} belongs to {OPTIONAL[root]}"
        if root == "transformers" and not inside:
            assert part in {"policy", "rollout", "data", "mini", "planning"}, "transformers stays below the module"
        if root == "lightning":
            assert LEVEL[part] >= LEVEL["policy"], "objectives, rewards and plain data know no trainer"
        if root == "lit_g2rpo" and name != "lit_g2rpo":
            other = name.split(".")[1]
            assert LEVEL[other] <= LEVEL[part], f"{part} lies below {other}"
            assert other == part or {part, other} not in SEPARATE, f"{part} and {other} do not know each other"


def test_the_walk_covers_both_roots() -> None:
    parts = {part_of(path) for path in FILES}
    assert {"callbacks", "objectives", "cli", "module"} <= parts


def test_importing_the_package_is_cheap() -> None:
    tree = ast.parse((ROOT / "lit_g2rpo" / "__init__.py").read_text())
    assert not list(imports(tree))
