"""Reporting rules of benchmarks, and what an evaluation comes to; apart from the rewards, which are trained on."""

from lit_g2rpo.evaluation.benchmark import Benchmark
from lit_g2rpo.evaluation.benchmarks import BENCHMARKS
from lit_g2rpo.evaluation.suite import Suite

__all__ = ["BENCHMARKS", "Benchmark", "Suite"]
