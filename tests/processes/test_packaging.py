"""The callbacks folder lies at the root and is imported from inside the package."""

import os
import sys

import lightning.pytorch as L
from helpers.paths import ROOT

from lit_g2rpo import callbacks


def test_callbacks_are_a_relative_link():
    link = ROOT / "lit_g2rpo" / "callbacks"
    assert os.path.islink(link)
    assert os.readlink(link) == os.path.join("..", "callbacks")
    assert (ROOT / "callbacks" / "__init__.py").is_file()
    assert not (ROOT / "callbacks").is_symlink()


def test_the_folder_cannot_be_imported_by_its_own_name(commands):
    result = commands.run(sys.executable, "-c", "import callbacks", cwd=ROOT)
    assert result.returncode != 0
    assert result.stderr.strip().endswith("ImportError: import these as lit_g2rpo.callbacks")


def test_the_package_exports_every_callback():
    assert all(issubclass(getattr(callbacks, name), L.Callback) for name in callbacks.__all__)
    assert callbacks.__file__ == str(ROOT / "lit_g2rpo" / "callbacks" / "__init__.py")
