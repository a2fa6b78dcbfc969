"""``recipes``: list the package's recipes and fragments, or copy them to a folder."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from lit_g2rpo.cli.arguments import VerbParser
from lit_g2rpo.cli.packaged import FOLDER, PREFIX, packaged
from lit_g2rpo.errors import UserError
from lit_g2rpo.files import check_writable, whole

DESCRIPTION = """\
List the recipes and fragments that the package ships. Each works from any folder by its package: name, on the command
line and inside recipes; --copy writes all of them to a folder, to be edited."""


def main(arguments: Sequence[str]) -> None:
    """List or copy the files.

    Raises:
        UserError: if the target folder is not empty or cannot be written.
    """
    parser = VerbParser("python -m lit_g2rpo recipes", description=DESCRIPTION)
    parser.add_argument("--copy", type=Path, metavar="FOLDER", help="folder to copy them to, such as configs")
    options = parser.parse_args(arguments)
    if options.copy is None:
        print(listing())
        return
    folder: Path = options.copy
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"--copy {folder} exists and is not empty; give a new folder")
    check_writable(folder)
    with whole(folder.absolute()) as part:
        shutil.copytree(FOLDER, part)
    print(f"{folder}: {len(packaged())} files; train with python -m lit_g2rpo fit --config {folder / 'g2rpo.yaml'}")


def listing() -> str:
    """List every file with the words that select it and the first line of its comment."""
    lines = {}
    for name in packaged():
        first = (FOLDER / name).read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
        key, _, summary = first.removeprefix("fills ").partition(": ") if "/" in name else ("config", "", first)
        lines[f"--{key} {PREFIX}{name}"] = summary
    width = max(map(len, lines))
    return "\n".join(f"{words:<{width}}  {summary}" for words, summary in lines.items())
