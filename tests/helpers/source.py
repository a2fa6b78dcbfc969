"""What a build of the package needs, copied to where a build may write."""

import shutil
from pathlib import Path

from helpers.paths import ROOT

LINKED = ("callbacks", "configs")
"""Folders of the checkout that the package holds by links."""


def copy_source(folder: Path) -> Path:
    """Copy the package, the folders it links to and the files of the build, and return the folder."""
    ignored = shutil.ignore_patterns("__pycache__", "runs")
    for name in ("lit_g2rpo", *LINKED):
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE", "MANIFEST.in"):
        shutil.copy(ROOT / name, folder)
    return folder
