"""Callbacks and configs lie at the root and are found inside the package, and a wheel holds every file."""

import os
import sys
import zipfile

import lightning.pytorch as L
import pytest
from helpers.paths import ROOT
from helpers.source import LINKED, copy_source

from lit_g2rpo import callbacks


@pytest.mark.parametrize("name", LINKED)
def test_folders_that_people_edit_are_relative_links(name):
    link = ROOT / "lit_g2rpo" / name
    assert os.path.islink(link)
    assert os.readlink(link) == os.path.join("..", name)
    assert (ROOT / name).is_dir()
    assert not (ROOT / name).is_symlink()


def test_the_folder_cannot_be_imported_by_its_own_name(commands):
    result = commands.run(sys.executable, "-c", "import callbacks", cwd=ROOT)
    assert result.returncode != 0
    assert result.stderr.strip().endswith("ImportError: import these as lit_g2rpo.callbacks")


def test_the_package_exports_every_callback():
    assert all(
        issubclass(getattr(callbacks, name), L.Callback) for name in callbacks.__all__ if name != "default_callbacks"
    )
    assert callbacks.__file__ == str(ROOT / "lit_g2rpo" / "callbacks" / "__init__.py")


def test_a_wheel_holds_every_file_of_the_package_and_the_licenses_of_its_data(tmp_path, commands):
    pytest.importorskip("build")
    source = copy_source(tmp_path / "source")
    # isolated, it would install its build tools anew
    commands.python("-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, source)
    [wheel] = tmp_path.glob("*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    files = [path for top in ("lit_g2rpo", *LINKED) for path in (ROOT / top).rglob("*") if path.is_file()]
    wanted = {path.relative_to(ROOT).as_posix() for path in files if not {"__pycache__", "runs"} & set(path.parts)}
    wanted = {name if name.startswith("lit_g2rpo") else f"lit_g2rpo/{name}" for name in wanted}
    assert wanted <= held
    assert {name.rsplit("/", 1)[1] for name in held if ".dist-info/licenses/" in name} == {"LICENSE", "NOTICE"}
    assert wheel.stat().st_size < 6e6


def test_the_package_and_its_reward_load_neither_torch_nor_lightning(commands):
    code = (
        "import sys, lit_g2rpo; dir(lit_g2rpo); lit_g2rpo.score('4', {'problem_type': 'numerical', 'answer': '4'}); "
        "print(sorted({'torch', 'lightning', 'transformers', 'matplotlib'} & sys.modules.keys()))"
    )
    assert commands.run(sys.executable, "-c", code).stdout.strip() == "[]"
