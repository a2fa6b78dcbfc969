"""Trace the code that a training step enters: files, functions and lines of the package, in the default run.

python benchmarks/step_trace.py prints figures for the first micro-batch of a rollout, which samples, for a later one,
and for the files that lead from the loader's prompts to the loss; --files lists the entered files.
"""

import argparse
import ast
import contextlib
import importlib
import io
import sys
import tempfile
import threading
from collections import defaultdict
from pathlib import Path
from types import CodeType
from typing import Any
from unittest.mock import patch

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "lit_g2rpo"
PATH = (
    "module.py",
    "training/rollout.py",
    "training/table.py",
    "policy/policy.py",
    "objectives/objective.py",
)
"""Files that lead from the loader's prompts to the loss, treating engine and reward as interfaces."""
THREADS = {"MainThread": 0, "scoring": 0, "reward": 1}
"""Threads by the prefix of their names: that of the step and the one that it starts; those that score, which live as
long as the run. The loader's thread, which prepares the next rollout, is excluded."""


def trace() -> list[tuple[set[CodeType], set[CodeType]]]:
    """Run the default recipe for one rollout.

    Returns:
        For each micro-batch, the code entered by its training step and by threads that it starts, and by threads that
        score meanwhile.
    """
    from lit_g2rpo.module import G2RPOModule

    steps: list[tuple[set[CodeType], set[CodeType]]] = []
    original, stepping = G2RPOModule.training_step, False

    def note(frame: Any, event: str, _: Any) -> None:
        if stepping and event == "call":
            name = threading.current_thread().name
            for start, place in THREADS.items():
                if name.startswith(start):
                    steps[-1][place].add(frame.f_code)

    def training_step(self: G2RPOModule, *args: Any) -> Any:
        nonlocal stepping
        steps.append((set(), set()))
        stepping = True
        sys.setprofile(note)
        try:
            return original(self, *args)
        finally:
            sys.setprofile(None)
            stepping = False

    # threads are traced from their start
    threading.setprofile(note)
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.chdir(folder),
        contextlib.redirect_stdout(io.StringIO()),
        patch.object(G2RPOModule, "training_step", training_step),
    ):
        importlib.import_module("lit_g2rpo.__main__").dispatch(
            "fit", ["--config", str(ROOT / "configs" / "g2rpo.yaml"), "--schedule.rollouts", "1"]
        )
    return steps


def functions(codes: set[CodeType]) -> dict[Path, list[ast.FunctionDef]]:
    """Find the functions that code belongs to; the body of a comprehension or a lambda is part of its function.

    Args:
        codes: entered code objects.

    Returns:
        Functions by file of the package.
    """
    lines: dict[Path, set[int]] = defaultdict(set)
    for code in codes:
        path = Path(code.co_filename).resolve()
        if (PACKAGE in path.parents or ROOT / "callbacks" in path.parents) and not code.co_name.startswith("<"):
            lines[path].add(code.co_firstlineno)
    found = {}
    for path, firsts in sorted(lines.items()):
        nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)]
        found[path] = [n for n in nodes if firsts & {n.lineno, *(d.lineno for d in n.decorator_list)}]
    return found


def docstring(node: ast.FunctionDef) -> int:
    """Count the lines of a function's docstring."""
    first = node.body[0]
    return (first.end_lineno or first.lineno) - first.lineno + 1 if ast.get_docstring(node) else 0


def main() -> None:
    """Trace a step and print the code that it enters."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", action="store_true", help="list the functions entered, file by file")
    arguments = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    for number, (own, scoring) in enumerate(trace()):
        for what, codes in (("", own), (", with the threads that score", own | scoring)):
            found = functions(codes)
            nodes = [node for of_file in found.values() for node in of_file]
            lines = sum((node.end_lineno or node.lineno) - node.lineno + 1 for node in nodes)
            print(
                f"micro-batch {number}{what}: {len(found)} files, {len(nodes)} functions, {lines} lines of functions, "
                f"of which {sum(map(docstring, nodes))} docstring"
            )
        for path, of_file in found.items() if arguments.files else ():
            print(f"  {path.relative_to(ROOT)}: {', '.join(node.name for node in of_file)}")
    sizes = {name: len((PACKAGE / name).read_text().splitlines()) for name in PATH}
    print(f"from prompts to loss: {len(sizes)} files, {sum(sizes.values())} lines: {sizes}")


if __name__ == "__main__":
    main()
