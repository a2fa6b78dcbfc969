"""The page and the notebook on the use from Python: all of their code runs."""

import os
import re
from pathlib import Path

import nbformat
import pytest
from helpers.paths import ROOT
from nbclient import NotebookClient

PAGE = (ROOT / "docs" / "library.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
NOTEBOOK = ROOT / "examples" / "custom_task.ipynb"


def test_the_code_of_the_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert {language for language, _ in BLOCKS} == {"python"}
    assert len(BLOCKS) == PAGE.count("\n```") / 2 > 10
    names: dict[str, object] = {"__name__": "page"}
    for _, code in BLOCKS:
        if file := re.match(r"# (\w+\.py)\n", code):
            (tmp_path / file[1]).write_text(code)
        else:
            exec(compile(code, "docs/library.md", "exec"), names)
    shown = capfd.readouterr().out
    assert "A chart. How high is" in shown
    assert "continue:    trainer.fit(module, datamodule=data, ckpt_path=" in shown


def test_the_notebook_runs(tmp_path: Path) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "kept without outputs, which would go stale"
    client = NotebookClient(notebook, timeout=None, resources={"metadata": {"path": str(tmp_path)}})
    client.execute(env=os.environ | {"OMP_NUM_THREADS": "1"})
    said = "".join(out.get("text", "") for cell in notebook.cells for out in cell.get("outputs", []))
    found = [float(value) for value in re.findall(r"validation after \d+ rollouts: accuracy ([\d.]+)", said)]
    assert len(found) == 3
    assert max(found) > found[0]
