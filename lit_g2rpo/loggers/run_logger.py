"""What a run needs from its loggers beyond numbers: its folder, dropping points, and other things to show."""

from abc import abstractmethod
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
        name: ``groups/<task>``, followed by a number for additional groups of the task.
        record: prompt, gold answer, and each completion with its scores, as plain values.
        text: the record as Markdown.
        images: images of the prompt, ``[height, width, 3]`` uint8 each.
    """

    name: str
    record: dict[str, Any]
    text: str
    images: Sequence[np.ndarray]


class RunLogger(Logger):
    """A logger whose run is in ``<save_dir>/<name>/version_<n>``.

    A subclass overrides what its tool can show; the rest shows nothing. Only the first rank calls these methods.
    """

    repeated: Repeated = MappingProxyType({})
    """Metrics that the resumed run logs again."""

    @property
    @abstractmethod
    def place(self) -> TensorBoardLogger | CSVLogger:
        """Lightning's logger that finds the folder."""

    def lie_in(self, folder: Path) -> None:
        """Use a folder found by another logger of the run."""
        vars(self.place).update(
            _root_dir=str(folder.parent), _save_dir=str(folder.parent), _name="", _version=folder.name
        )

    def forget(self, rollout: int, repeated: Repeated) -> None:
        """Drop all points after a rollout, or skip them when they are logged again.

        Args:
            rollout: rollouts done so far; -1 drops everything.
            repeated: metrics that were logged after it.
        """
        self.repeated = repeated

    def show_text(self, name: str, text: str, rollout: int) -> None:
        """Show a text in Markdown."""

    def show_image(self, name: str, pixels: np.ndarray, rollout: int) -> None:
        """Show an image, ``[height, width, 3]`` uint8."""

    def show_histogram(self, name: str, values: Tensor, rollout: int) -> None:
        """Show the distribution of one or more values."""

    def show_groups(self, groups: Sequence[ShownGroup], rollout: int) -> None:
        """Show groups of a rollout."""

    @abstractmethod
    def how_to_open(self, folder: Path) -> str:
        """Explain in one line how to view the run.

        Args:
            folder: folder of the run, as given by the user.
        """


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of nested mappings by their dotted keys."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield prefix + str(key), value
