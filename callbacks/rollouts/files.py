"""The folder ``rollouts`` of a run: JSON lines for programs, and a page that opens from disk for people."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, get_args

from PIL import Image

from lit_g2rpo.callbacks.rollouts.record import Record, small_image
from lit_g2rpo.files import remove_scratch, whole, write_text

PAGE = Path(__file__).parent / "page"
IMAGES = "images"
IMAGE_NAME = re.compile(r"[0-9a-f]{16}\.jpg")
LINES_NAME = re.compile(r"(rollout|validation)_(\d{6,})\.jsonl")
MIB = 2**20

Kind = Literal["rollout", "validation"]
Entry = tuple[Kind, int]
"""Kinds of entries in the folder: a rollout by its number, or the validation after that many rollouts."""


@dataclass(slots=True)
class Kept:
    """A rollout or validation in the folder.

    Args:
        size: size of its lines and its script, bytes.
        images: names of its images.
    """

    size: int
    images: set[str]


class RolloutFiles:
    """Write rollouts and validations to a folder, created if necessary, and limit its size.

    Each is written twice: as ``rollout_<n>.jsonl`` or ``validation_<n>.jsonl``, one line per group, and as ``.js``,
    the same lines for the page, since a page opened from disk may load scripts but not read other files. Every file
    appears complete, and ``rollouts.js``, the list that the page starts from, names only files that exist.

    Args:
        title: name of the run, for the page.
        keep: number of rollouts to keep; None for as many as the size allows.
        keep_mib: size of the folder above which the oldest rollouts are removed, and then the oldest validations, MiB;
            the newest of each is always kept.
    """

    def __init__(self, folder: Path, title: str, keep: int | None, keep_mib: float) -> None:
        self.folder, self.title, self.keep, self.keep_mib = folder, title, keep, keep_mib
        self._kept: dict[Entry, Kept] = {}
        self._image_sizes: dict[str, int] = {}

    def open(self, rollout: int) -> None:
        """Create the page, and take over files from earlier in the run.

        Args:
            rollout: rollouts sampled so far; later ones are removed, since they will be sampled again, and so are
                incomplete ones from a crashed machine.
        """
        (self.folder / IMAGES).mkdir(parents=True, exist_ok=True)
        for folder in (self.folder, self.folder / IMAGES):
            remove_scratch(folder)
        for path in sorted(PAGE.iterdir()):
            write_text(self.folder / path.name, path.read_text(encoding="utf-8"))
        self._kept, self._image_sizes = {}, {}
        gone: list[Entry] = []
        for path in self.folder.iterdir():
            name = LINES_NAME.fullmatch(path.name)
            if name is None:
                continue
            entry: Entry = (cast(Kind, name[1]), int(name[2]))
            kept = read_kept(path) if entry[1] <= rollout else None
            if kept is None:
                gone.append(entry)
            else:
                self._kept[entry] = kept
        self._list()
        for entry in gone:
            self._remove(entry)
        for path in (self.folder / IMAGES).iterdir():
            if IMAGE_NAME.fullmatch(path.name):
                self._image_sizes[path.name] = path.stat().st_size
        self._remove_images()

    def write(
        self, rollout: int, groups: Sequence[tuple[Record, Sequence[Image.Image]]], kind: Kind = "rollout"
    ) -> None:
        """Write a rollout, numbered from 1, or the validation after it, and remove the oldest ones over the limit.

        Args:
            rollout: rollouts sampled so far.
            groups: the groups, each with the images of its prompt.
            kind: whether it is a rollout or a validation.
        """
        if not (self.folder / "index.html").exists():
            # the disk was full when the page was created, or somebody has removed it
            self.open(rollout - (kind == "rollout"))
        lines, shown = [], set()
        for record, images in groups:
            names = [self._image(image) for image in images]
            shown |= set(names)
            paths = [f"{IMAGES}/{name}" for name in names]
            # the page's script also relies on this: JSON escaped to ASCII is valid JavaScript
            lines.append(json.dumps({"rollout": rollout, **record, "images": paths}, separators=(",", ":")))
        path = self._path((kind, rollout))
        write_text(path, "".join(f"{line}\n" for line in lines))
        write_text(script(path), f"add{kind.capitalize()}({rollout}, [\n" + ",\n".join(lines) + "\n]);\n")
        self._kept[kind, rollout] = Kept(path.stat().st_size + script(path).stat().st_size, shown)
        gone = []
        while (entry := self._oldest_too_much()) is not None:
            gone.append(entry)
            del self._kept[entry]
        self._list()
        for entry in gone:
            self._remove(entry)
        self._remove_images()

    def _path(self, entry: Entry) -> Path:
        return self.folder / f"{entry[0]}_{entry[1]:06d}.jsonl"

    def _image(self, image: Image.Image) -> str:
        small = small_image(image)
        content = hashlib.blake2b(small.tobytes() + repr(small.size).encode(), digest_size=8)
        name = f"{content.hexdigest()}.jpg"
        if name not in self._image_sizes:
            path = self.folder / IMAGES / name
            with whole(path) as part:
                small.save(part, "JPEG", quality=90)
            self._image_sizes[name] = path.stat().st_size
        return name

    def _numbers(self, kind: Kind) -> list[int]:
        return sorted(number for of_kind, number in self._kept if of_kind == kind)

    def _shown(self) -> set[str]:
        return set().union(*(kept.images for kept in self._kept.values()))

    def _oldest_too_much(self) -> Entry | None:
        """Find the next entry to remove; validations, which are comparable with each other, go last."""
        size = sum(kept.size for kept in self._kept.values()) + sum(self._image_sizes[name] for name in self._shown())
        too_large = size > self.keep_mib * MIB
        for kind in get_args(Kind):
            numbers = self._numbers(kind)
            too_many = kind == "rollout" and self.keep is not None and len(numbers) > self.keep
            if len(numbers) > 1 and (too_large or too_many):
                return kind, numbers[0]
        return None

    def _list(self) -> None:
        content = {"title": self.title, **{f"{kind}s": self._numbers(kind) for kind in get_args(Kind)}}
        write_text(self.folder / "rollouts.js", f"const RUN = {json.dumps(content)};\n")

    def _remove(self, entry: Entry) -> None:
        path = self._path(entry)
        path.unlink(missing_ok=True)
        script(path).unlink(missing_ok=True)

    def _remove_images(self) -> None:
        for name in self._image_sizes.keys() - self._shown():
            (self.folder / IMAGES / name).unlink(missing_ok=True)
            del self._image_sizes[name]


def read_kept(path: Path) -> Kept | None:
    """Read the size and images of a rollout or validation from its lines; None if its files are incomplete."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        shown = {Path(image).name for line in lines for image in json.loads(line)["images"]}
        size = path.stat().st_size + script(path).stat().st_size
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    return Kept(size, shown) if lines and script(path).read_bytes().endswith(b"]);\n") else None


def script(lines: Path) -> Path:
    """Return the path of the page's script for a file of lines."""
    return lines.with_suffix(".js")
