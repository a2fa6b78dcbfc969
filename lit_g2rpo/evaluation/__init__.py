"""Reporting rules of benchmarks, and what an evaluation comes to; apart from the rewards, which are trained on."""

from lit_g2rpo.evaluation.benchmarks import BENCHMARKS, Benchmark

__all__ = ["BENCHMARKS", "Benchmark"]
