"""Evaluation: the rules by which benchmarks report figures, separate from the rewards used in training."""

from lit_g2rpo.evaluation.benchmark import Benchmark
from lit_g2rpo.evaluation.benchmarks import BENCHMARKS
from lit_g2rpo.evaluation.suite import Suite

__all__ = ["BENCHMARKS", "Benchmark", "Suite"]
