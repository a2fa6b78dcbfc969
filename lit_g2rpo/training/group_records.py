"""Finished groups of rollouts on disk: one append-only file per rollout and rank."""

import base64
import json
import os
import re
import shutil
import warnings
import zlib
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from pathlib import Path
from threading import Event
from typing import Any, BinaryIO

import torch
from torch import Tensor

from lit_g2rpo.experience import Completion
from lit_g2rpo.files import whole
from lit_g2rpo.rewards import RewardResult
from lit_g2rpo.rewards.running.scorer import Scored

DELAY = 1.0
"""Seconds that a record may wait for others, so that writes to disk are rare."""

NAME = re.compile(r"rollout=(\d+)-rank(\d+)\.jsonl")

RESULT = tuple(part.name for part in fields(RewardResult))

Record = dict[str, Any]
Place = tuple[int, str]
"""Wave and prompt id."""


@dataclass(slots=True)
class Found:
    """Contents of a file.

    Args:
        state: weights and settings that the rollout was sampled with.
        groups: completions of each group, as written by `group_record`.
        scores: their scores, as written by `scores_record`.
        broken: number of lines that are incomplete or were changed later.
    """

    state: Record = field(default_factory=dict)
    groups: dict[Place, Record] = field(default_factory=dict)
    scores: dict[Place, Record] = field(default_factory=dict)
    broken: int = 0


class GroupRecords:
    """Read and write the files of finished groups; every rank creates one of these before any of them begins a rollout.

    Args:
        folder: folder of the files; existing files are read immediately.
        rank: this rank, which writes its own files and reads those of all ranks.

    ``found`` holds what an earlier process wrote of the current rollout.
    """

    def __init__(self, folder: Path, rank: int) -> None:
        self._folder, self._rank = folder, rank
        self._path, self._first = folder, list[Record]()
        self._found: dict[int, dict[int, Found]] = {}
        for path in sorted(folder.glob("rollout=*.jsonl")):
            if match := NAME.fullmatch(path.name):
                self._found.setdefault(int(match[1]), {})[int(match[2])] = read_records(path)
        self.found = Found()
        self._file: BinaryIO | None = None
        self._failed = False
        self._jobs: list[Future[None]] = []
        self._hurry = Event()
        self._waiting: deque[Callable[[], Record]] = deque()
        # Writing waits for the disk, and decoding should not.
        self._thread = ThreadPoolExecutor(1, "groups")

    def begin(self, rollout: int, state: Record, rewards: str) -> list[Found]:
        """Start a rollout and fill ``found`` with all earlier records that are still valid.

        Unwritten records of the previous rollout are dropped if all of it was sampled within ``DELAY``.

        Args:
            rollout: number of the rollout, from 1.
            state: everything that determines its completions, as plain values.
            rewards: digest of everything else that determines their scores.

        Returns:
            Contents of files, from any rank, that belong to another state.
        """
        if self._file is None:
            # sampled so quickly that it is not worth keeping
            self._waiting.clear()
        self._finish()
        state, kept, other, mine = json.loads(json.dumps(state)), Found(), [], Found()
        for rank, found in self._found.pop(rollout, {}).items():
            kept.broken += found.broken
            if found.state.get("state") != state:
                other.append(found)
                continue
            if found.state["rewards"] != rewards:
                found.scores = {}
            kept.groups |= found.groups
            kept.scores |= found.scores
            mine = found if rank == self._rank else mine
        self._path = self._folder / f"rollout={rollout:05d}-rank{self._rank}.jsonl"
        self._first = [{"state": state, "rewards": rewards}, *mine.groups.values(), *mine.scores.values()]
        self.found = kept
        return other

    def add(self, make: Callable[[], Record]) -> None:
        """Write a record within ``DELAY`` seconds; a failing disk is reported once and does not stop training.

        Args:
            make: creates the record, in another thread.
        """
        self._waiting.append(make)
        self._jobs.append(self._thread.submit(self._write))

    def drop(self) -> None:
        """Stop writing the current rollout."""
        self._waiting.clear()
        self._finish()

    def covered(self, rollout: int) -> None:
        """Remove all ranks' files of the rollouts that a checkpoint covers; only one rank calls this.

        Args:
            rollout: the last rollout in the checkpoint.
        """
        for path in self._folder.glob("rollout=*.jsonl"):
            match = NAME.fullmatch(path.name)
            if match and int(match[1]) <= rollout:
                path.unlink(missing_ok=True)
        # what a killed process left half written; another rank may still write that of the newest rollout
        for path in self._folder.glob(".rollout=*.jsonl-*"):
            match = NAME.match(path.name.removeprefix("."))
            if match and int(match[1]) < rollout:
                shutil.rmtree(path, ignore_errors=True)

    def close(self) -> None:
        """Wait until everything is written."""
        self._finish()
        self._thread.shutdown()

    def _finish(self) -> None:
        self._hurry.set()
        for job in self._jobs:
            job.result()
        self._jobs.clear()
        self._hurry.clear()
        if self._file is not None:
            self._file.close()
        self._file, self._failed = None, False

    def _write(self) -> None:
        if not self._waiting or self._failed:
            return
        self._hurry.wait(DELAY)
        lines = []
        while self._waiting:
            # another thread may have cleared the queue
            try:
                make = self._waiting.popleft()
            except IndexError:
                break
            lines.append(_line(make()))
        if not lines:
            return
        try:
            if self._file is None:
                self._file = self._opened()
            self._file.write(b"".join(lines))
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            self._fail(error)

    def _opened(self) -> BinaryIO:
        """Open this rank's file, dropping lines that belong to another state or are incomplete."""
        with whole(self._path) as part, part.open("wb") as file:
            file.writelines(map(_line, self._first))
            file.flush()
            os.fsync(file.fileno())
        return self._path.open("ab")

    def _fail(self, error: OSError) -> None:
        self._failed = True
        warnings.warn(
            f"groups of this rollout cannot be kept in {self._folder} ({error.strerror or error}); a run that is ended "
            "inside it samples them again",
            stacklevel=2,
        )


def read_records(path: Path) -> Found:
    """Read a file of groups, skipping and counting incomplete lines."""
    found = Found()
    for line in path.read_bytes().splitlines(keepends=True):
        checksum, _, text = line.rstrip(b"\n").partition(b" ")
        if not line.endswith(b"\n") or checksum != b"%08x" % zlib.crc32(text):
            found.broken += 1
            continue
        record = json.loads(text)
        if "state" in record:
            found.state = record
        else:
            kind = found.scores if "scores" in record else found.groups
            kind[record["wave"], record["prompt"]] = record
    return found


def group_record(place: Place, inputs: str, completions: list[Completion]) -> Record:
    """Write a group as plain values.

    Args:
        inputs: digest of what the policy reads from the prompt.
        completions: its completions.
    """
    return {
        "wave": place[0],
        "prompt": place[1],
        "inputs": inputs,
        "truncated": [c.truncated for c in completions],
        "lengths": [len(c.token_ids) for c in completions],
        **{name: _packed([getattr(c, name) for c in completions]) for name in ("token_ids", "logprobs", "entropy")},
    }


def read_group(record: Mapping[str, Any], decode: Callable[[Tensor], str]) -> list[Completion]:
    """Read a group back, bit for bit.

    Args:
        record: as returned by `group_record`.
        decode: turns tokens into text.
    """
    parts = [_unpacked(record[name], record["lengths"]) for name in ("token_ids", "logprobs", "entropy")]
    rows = zip(*parts, record["truncated"], strict=True)
    return [Completion(ids, logprobs, entropy, decode(ids), cut) for ids, logprobs, entropy, cut in rows]


def failed(one: Scored) -> bool:
    """Return whether a reward failed and must be recomputed; a built-in reward's error only describes the answer."""
    return one.failure is not None or (one.path is not None and one.result.error is not None)


def scores_record(place: Place, scores: list[Scored]) -> Record:
    """Write the scores of a group as plain values."""
    # asdict makes deep copies, which takes as long as everything else here
    rows = [{"result": {n: getattr(one.result, n) for n in RESULT}, "path": one.path} for one in scores]
    return {"wave": place[0], "prompt": place[1], "scores": rows}


def read_scores(record: Mapping[str, Any]) -> list[Scored]:
    """Read back the scores of a group, as written by `scores_record`."""
    return [Scored(RewardResult(**row["result"]), row["path"]) for row in record["scores"]]


def _line(record: Record) -> bytes:
    text = json.dumps(record, default=float, check_circular=False).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _packed(rows: list[Tensor]) -> list[str]:
    flat = torch.cat(rows).cpu()
    return [str(flat.dtype).removeprefix("torch."), base64.b64encode(flat.view(torch.uint8).numpy().tobytes()).decode()]


def _unpacked(packed: list[str], lengths: list[int]) -> list[Tensor]:
    data = torch.frombuffer(bytearray(base64.b64decode(packed[1])), dtype=getattr(torch, packed[0]))
    return [row.clone() for row in data.split_with_sizes(lengths)]
