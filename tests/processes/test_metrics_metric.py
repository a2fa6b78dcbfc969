"""Benchmark figures as torchmetrics: against plain averages, merged, and over two processes."""

import os
import socket
import sys

import pytest
import torch
from helpers.processes import finished

from lit_g2rpo.evaluation import BENCHMARKS
from lit_g2rpo.evaluation.metric import BenchmarkMetric, CircularAccuracy, metric_of

CHARTQA = [(1.0, "human"), (0.0, "human"), (None, "augmented"), (1.0, "augmented"), (1.0, "augmented")]
MMBENCH = [(1.0, "q1"), (1.0, "q2"), (0.0, "q1"), (1.0, "q2"), (1.0, "q3")]


def chartqa(rows, metric=None):
    metric = metric or metric_of(BENCHMARKS["chartqa"])
    metric.update([value for value, _ in rows], [{"type": kind} for _, kind in rows])
    return metric


def mmbench(rows, metric=None):
    metric = metric or metric_of(BENCHMARKS["mmbench"])
    metric.update([value for value, _ in rows], [{"circular_id": question} for _, question in rows])
    return metric


def plain(figures):
    return {name: round(float(value), 6) for name, value in figures.items()}


def test_means_of_a_benchmark_and_its_subsets():
    figures = plain(chartqa(CHARTQA).compute())
    assert figures == {
        "relaxed accuracy": 0.6,
        "human": 0.5,
        "augmented": 0.666667,
        "mean over type": 0.583333,
    }


def test_a_subset_without_rows_has_no_figure():
    figures = plain(chartqa(CHARTQA[:2]).compute())
    assert figures == {"relaxed accuracy": 0.5, "human": 0.5, "mean over type": 0.5}


def test_recalls_of_boxes():
    metric = BenchmarkMetric(BENCHMARKS["refcoco"])
    metric.update([0.5, 0.7, 0.29, None], [{}] * 4)
    figures = plain(metric.compute())
    assert figures == {"Acc@0.5": 0.5, "recall@0.3": 0.5, "recall@0.7": 0.25, "mean IoU": 0.3725}


def test_a_circular_question_counts_once_and_only_if_all_rotations_are_right():
    assert plain(mmbench(MMBENCH).compute()) == {"circular accuracy": 0.666667, "vanilla accuracy": 0.8}


@pytest.mark.parametrize(("count", "rows"), [(chartqa, CHARTQA), (mmbench, MMBENCH)])
def test_parts_add_up_in_any_order(count, rows):
    whole = count(rows)
    parts = count(rows[3:], count(rows[:3]))
    assert plain(parts.compute()) == plain(whole.compute())
    assert plain(count(rows[::-1]).compute()) == plain(whole.compute())
    parts.reset()
    assert plain(count(rows, parts).compute()) == plain(whole.compute())


def test_a_metric_is_of_its_kind():
    assert isinstance(metric_of(BENCHMARKS["mmbench"]), CircularAccuracy)
    with pytest.raises(AssertionError, match="CircularAccuracy"):
        BenchmarkMetric(BENCHMARKS["mmbench"])


def rank_main(rank, port):
    """Count every second row on each of two ranks; both print what they come to."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    torch.distributed.init_process_group("gloo", rank=int(rank), world_size=2)
    for count, rows in ((chartqa, CHARTQA), (mmbench, MMBENCH)):
        print(plain(count(rows[int(rank) :: 2]).compute()))
    torch.distributed.destroy_process_group()


def test_two_processes_come_to_the_figures_of_one(commands):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    ranks = [commands.start(sys.executable, __file__, rank, port) for rank in "01"]
    expected = f"{plain(chartqa(CHARTQA).compute())}\n{plain(mmbench(MMBENCH).compute())}\n"
    for rank in map(finished, ranks):
        assert rank.returncode == 0, rank.stderr
        assert rank.stdout == expected


if __name__ == "__main__":
    rank_main(*sys.argv[1:])
