"""What a run asks of its loggers beyond numbers: where it lies, what to forget, and what else to show."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from torch import Tensor

Repeated = Mapping[int, frozenset[str]]
"""Names of the metrics, by rollout, that a killed run has logged and a resumed one logs again."""


@dataclass(slots=True, frozen=True)
class ShownGroup:
    """A group of completions to show.

    Args:
        name: ``groups/<task>``, with a number behind it for a further group of the task.
        record: prompt, gold answer, and each completion with its scores, as plain values.
        text: the record as Markdown.
        images: images of the prompt, ``[height, width, 3]`` uint8 each.
    """

    name: str
    record: dict[str, Any]
    text: str
    images: Sequence[np.ndarray]


class RunLogger(Logger):
    """A logger whose run lies in ``<save_dir>/<name>/version_<n>``.

    A subclass overrides what its tool can show; the rest shows nothing. The first rank alone calls all of it.
    """

    repeated: Repeated = MappingProxyType({})
    """What the run that was resumed here logs again."""

    @property
    def place(self) -> TensorBoardLogger | CSVLogger:
        """The logger of Lightning's that finds the folder."""
        raise NotImplementedError

    def lie_in(self, folder: Path) -> None:
        """Use a folder that another logger of the run has found."""
        vars(self.place).update(
            _root_dir=str(folder.parent), _save_dir=str(folder.parent), _name="", _version=folder.name
        )

    def forget(self, rollout: int, repeated: Repeated) -> None:
        """Drop what comes after a rollout, or log none of it again.

        Args:
            rollout: rollouts that are done; -1 drops everything.
            repeated: what was logged after it.
        """
        self.repeated = repeated

    def show_text(self, name: str, text: str, rollout: int) -> None:
        """Show a text in Markdown."""

    def show_image(self, name: str, pixels: np.ndarray, rollout: int) -> None:
        """Show an image, ``[height, width, 3]`` uint8."""

    def show_histogram(self, name: str, values: Tensor, rollout: int) -> None:
        """Show how values are distributed, at least one of them."""

    def show_groups(self, groups: Sequence[ShownGroup], rollout: int) -> None:
        """Show groups of a rollout."""

    def how_to_open(self, folder: Path) -> str:
        """Say in one line how to look at the run.

        Args:
            folder: folder of the run, as people gave it.
        """
        raise NotImplementedError


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of nested mappings by their dotted keys."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield prefix + str(key), value
