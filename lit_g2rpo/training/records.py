"""Names in a run's folder, and its records: one for the start and one for each resume."""

import re
from pathlib import Path

from lit_g2rpo.errors import UserError
from lit_g2rpo.files import write_text

LAST = "last.ckpt"
"""Link to the newest checkpoint of a run."""

NUMBERED = re.compile(r"rollout=(?P<rollout>\d+)-step=(?P<step>\d+)\.ckpt")
"""Name of a checkpoint saved during a run."""


def records(folder: Path, name: str = "config.yaml") -> list[Path]:
    """List ``config.yaml``, ``config-00025.yaml``, ``config-00025-2.yaml`` and so on, newest last.

    Args:
        folder: folder of a run.
        name: name of the first record.
    """
    stem, suffix = Path(name).stem, Path(name).suffix
    found = {}
    for path in folder.glob(f"{stem}*{suffix}"):
        if match := re.fullmatch(rf"{re.escape(stem)}(?:-(\d{{5,}})(?:-(\d+))?)?", path.stem):
            found[tuple(int(number or -1) for number in match.groups())] = path
    return [found[key] for key in sorted(found)]


def add_record(folder: Path, name: str, rollout: int, text: str) -> Path:
    """Write a record next to the earlier ones, without overwriting any of them.

    Args:
        folder: folder of a run.
        name: name of the first record.
        rollout: rollouts done so far, used in the name of later records.
        text: content of the record.

    Returns:
        Its path, or that of the newest record if this was written at the same rollout with the same text.
    """
    first, earlier = folder / name, records(folder, name)
    numbered = f"{first.stem}-{rollout:05d}"
    again = earlier and (rollout == 0 or earlier[-1].stem.startswith(numbered))
    if again and earlier[-1].read_text(encoding="utf-8") == text:
        return earlier[-1]
    stems = [first.stem, numbered, *(f"{numbered}-{number}" for number in range(2, len(earlier) + 2))]
    path = next(path for stem in stems if not (path := folder / f"{stem}{first.suffix}").exists())
    write_text(path, text)
    return path


def recorded_config(folder: Path) -> Path:
    """Find the config that a run was last started with.

    Raises:
        UserError: if the folder is not a run's folder.
    """
    if found := records(folder):
        return found[-1]
    if not folder.exists():
        raise UserError(f"--run {folder}: no such folder; give the folder of a run, such as runs/g2rpo/version_0")
    if not folder.is_dir():
        raise UserError(f"--run {folder} is a file; give the folder of a run, such as runs/g2rpo/version_0")
    below = [path.parent for path in folder.glob("*/config.yaml")]
    newest = max(below, key=lambda path: (path.stat().st_mtime_ns, str(path)), default="runs/g2rpo/version_0")
    raise UserError(f"--run {folder} is not the folder of a run (it holds no config.yaml); give one, such as {newest}")
