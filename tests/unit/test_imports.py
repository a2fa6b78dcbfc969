"""Who may import whom: each level sees only the levels before it, and nothing runs in a circle."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from helpers.imports import FILES, ROOT, graph, imports, module_of, part_of

# parts of one level may import each other unless SEPARATE says not; no circle may come of it
LEVELS = [
    {"errors"},
    {"files", "registry", "hardware"},
    {"objectives", "rewards"},
    {"experience", "tasks"},
    {"policy"},
    {"rollout"},
    {"training"},
    {"evaluation"},
    {"data"},
    {"planning", "module", "comparison", "loggers"},
    {"callbacks", "strategies"},
    {"cli", "mini", "__main__"},
]
LEVEL = {part: number for number, level in enumerate(LEVELS) for part in level}
SEPARATE = [{"callbacks", "strategies"}, {"objectives", "rewards"}]
TOP = {"__init__", "__main__", "errors", "experience", "files", "module", "registry", "tasks"}
# package: the one folder that may import it, inside functions only
OPTIONAL = {
    "deepspeed": "strategies",
    "torch_xla": "strategies",
    "torch_neuronx": "strategies",
    "vllm": "rollout",
    "peft": "policy",
    "av": "data",
    "wandb": "loggers",
    "mlflow": "loggers",
}
# subclasses of a package's own classes, which only that package or a function imports
PLUG_INS = {"lit_g2rpo.rollout.vllm.processor", "lit_g2rpo.rollout.vllm.transfer"}


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
            plugged_in = module_of(path) in PLUG_INS
            assert inside or plugged_in, f"{root} is optional: import it inside the function that needs it"
            assert part == OPTIONAL[root], f"{root} belongs to {OPTIONAL[root]}"
        assert name not in PLUG_INS or inside, f"{name} imports an optional package"
        if root == "transformers" and not inside:
            assert part in {"policy", "rollout", "data", "mini", "planning"}, "transformers stays below the module"
        if root == "lightning":
            known = part == "hardware" or LEVEL[part] >= LEVEL["policy"]
            assert known, "objectives, rewards and plain data know no trainer"
        if root == "lit_g2rpo" and name != "lit_g2rpo":
            other = name.split(".")[1]
            assert LEVEL[other] <= LEVEL[part], f"{part} lies below {other}"
            assert other == part or {part, other} not in SEPARATE, f"{part} and {other} do not know each other"


def test_no_modules_import_each_other_in_a_circle() -> None:
    try:
        TopologicalSorter(graph()).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_no_rooms_import_each_other_in_a_circle() -> None:
    rooms: dict[str, set[str]] = {}
    for module, imported in graph().items():
        room = module.split(".")[1]
        rooms.setdefault(room, set()).update({name.split(".")[1] for name in imported} - {room})
    try:
        TopologicalSorter(rooms).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_the_top_of_the_package_holds_few_modules() -> None:
    assert {path.stem for path in (ROOT / "lit_g2rpo").glob("*.py")} <= TOP
    assert len(TOP) <= 8


def test_the_walk_covers_both_roots() -> None:
    parts = {part_of(path) for path in FILES}
    assert {"callbacks", "objectives", "cli", "module"} <= parts


def test_importing_the_package_is_cheap() -> None:
    tree = ast.parse((ROOT / "lit_g2rpo" / "__init__.py").read_text())
    assert [name for name, _ in imports(tree)] == ["lazy_loader"]
