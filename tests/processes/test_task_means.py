"""Means of an evaluation as torchmetrics: by hand, in parts, and over two processes."""

import os
import socket
import sys

import pytest
import torch
from helpers.processes import Commands, finished

from lit_g2rpo.evaluation.task_means import TaskMeans

TASKS = ["ocr", "math", "absent"]
ROWS = [
    {"task": task, "accuracy": accuracy, "format": 1.0, "length": length, "truncated": length > 9}
    for task, accuracy, length in [("ocr", 1.0, 4), ("ocr", 0.0, 10), ("math", 0.25, 7), ("ocr", 0.5, 7)]
]
MEANS = {
    "ocr": {"accuracy": 0.5, "format": 1.0, "length": 7.0, "truncated": pytest.approx(1 / 3), "n": 3.0},
    "math": {"accuracy": 0.25, "format": 1.0, "length": 7.0, "truncated": 0.0, "n": 1.0},
}


def test_means_by_hand_without_the_task_that_has_no_row():
    means = TaskMeans(TASKS)
    means.update(ROWS)
    assert means.compute() == MEANS


def test_parts_add_up():
    means = TaskMeans(TASKS)
    for row in ROWS:
        means.update([row])
    assert means.compute() == MEANS
    means.reset()
    assert means.compute() == {}


def rank_main(rank, port):
    """Count every second row on each of two ranks; both print what they come to."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    torch.distributed.init_process_group("gloo", rank=int(rank), world_size=2)
    means = TaskMeans(TASKS)
    means.update(ROWS[int(rank) :: 2])
    print(means.compute() == MEANS)
    torch.distributed.destroy_process_group()


def test_two_processes_come_to_the_means_of_one(commands: Commands):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    ranks = [commands.start(sys.executable, __file__, rank, port) for rank in "01"]
    for rank in map(finished, ranks):
        assert (rank.returncode, rank.stdout) == (0, "True\n"), rank.stderr


if __name__ == "__main__":
    rank_main(*sys.argv[1:])
