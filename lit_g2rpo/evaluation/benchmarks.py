"""The benchmarks that are scored without a judge, by name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lit_g2rpo.errors import UserError
from lit_g2rpo.evaluation import rules
from lit_g2rpo.registry import instance, one_line
from lit_g2rpo.rewards.answers.parse import unbox

MMSTAR = {
    "coarse perception": ("image scene and topic", "image style & quality", "image emotion"),
    "fine-grained perception": ("object counting", "recognition", "localization"),
    "instance reasoning": (
        "single-instance reasoning", "cross-instance attribute reasoning", "cross-instance relation reasoning",
    ),
    "logical reasoning": ("code & sequence reasoning", "diagram reasoning", "common reasoning"),
    "science & technology": (
        "biology & chemistry & physics", "electronics & energy & mechanical eng.",
        "geography & earth science & agriculture",
    ),
    "math": ("geometry", "numeric commonsense and calculation", "statistical reasoning"),
}  # fmt: skip
OCRBENCH = (
    "Regular Text Recognition", "Irregular Text Recognition", "Artistic Text Recognition", "Handwriting Recognition",
    "Digit String Recognition", "Non-Semantic Text Recognition", "Scene Text-centric VQA", "Doc-oriented VQA",
    "Key Information Extraction", "Handwritten Mathematical Expression Recognition",
)  # fmt: skip
_HUB = "huggingface.co/datasets/"


@dataclass(slots=True, frozen=True)
class Benchmark:
    """How a benchmark is scored and reported.

    Args:
        title: its name in print.
        metric: name of its figure.
        rule: answer and row to a number from 0 to 1, or None; see ``rules``.
        words: the rule in words.
        source: where its files come from.
        official: True if the rule is the benchmark's own; False where the benchmark asks a language model to judge and
            the rule here only stands in for it.
        columns: columns that the rule needs beside those of every row.
        subsets: a column and its values, each of which gets a mean of its own.
        hit_at: the figure counts values of at least this; None averages the values themselves.
        recalls: further thresholds whose shares are reported.
        circular: column that tells which question a row is a rotation of; a question is right if all its rows are.
    """

    title: str
    metric: str
    rule: Callable[[str, Mapping[str, Any]], float | None]
    words: str
    source: str
    official: bool = True
    columns: tuple[str, ...] = ()
    subsets: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    hit_at: float | None = None
    recalls: tuple[float, ...] = ()
    circular: str | None = None

    def value(self, answer: str, row: Mapping[str, Any]) -> float | None:
        """Compare an answer with a row; None if the answer cannot be read.

        Args:
            answer: text of the answer block; a box of LaTeX around it is taken off.

        Raises:
            ValueError: if the row is not what the rule needs.
        """
        return self.rule(unbox(answer), row)

    def score(self, value: float | None) -> float:
        """Turn a value into what the figure averages, from 0 to 1."""
        return float((value or 0.0) >= self.hit_at) if self.hit_at is not None else value or 0.0


def _referring(title: str, source: str) -> Benchmark:
    words = "IoU of the one box with the gold box at least 0.5, on the 0..1000 grid"
    return Benchmark(title, "Acc@0.5", rules.overlap, words, source, hit_at=0.5, recalls=(0.3, 0.7))


def _anls(title: str, source: str) -> Benchmark:
    words = "edit similarity with the nearest reference, 0 below one half"
    return Benchmark(title, "ANLS", rules.nearest_reference, words, source)


def _judged(title: str, rule: Any, words: str, source: str, *columns: str) -> Benchmark:
    return Benchmark(title, "accuracy", rule, words, source, official=False, columns=columns)


BENCHMARKS = {
    "mmmu": Benchmark(
        "MMMU", "accuracy", rules.mmmu_answer,
        "the official parser; where it guesses an option at random, no answer", _HUB + "MMMU/MMMU, split validation",
    ),
    "mmstar": Benchmark(
        "MMStar", "accuracy", rules.letter, "the option named; mean over rows, and mean over categories",
        _HUB + "Lin-Chen/MMStar", columns=("category", "l2_category"),
        subsets={"category": tuple(MMSTAR), "l2_category": tuple(name for names in MMSTAR.values() for name in names)},
    ),
    "ai2d": Benchmark("AI2D", "accuracy", rules.letter, "the option named", _HUB + "lmms-lab/ai2d"),
    "embspatial": Benchmark(
        "EmbSpatial", "accuracy", rules.letter, "the option named", _HUB + "FlagEval/EmbSpatial-Bench"
    ),
    "chartqa": Benchmark(
        "ChartQA", "relaxed accuracy", rules.relaxed, "numbers within 5 %, other texts equal but for case",
        _HUB + "lmms-lab/ChartQA", columns=("type",), subsets={"type": ("human", "augmented")},
    ),
    "docvqa": _anls("DocVQA", _HUB + "lmms-lab/DocVQA, config DocVQA, split validation"),
    "infovqa": _anls("InfoVQA", _HUB + "lmms-lab/DocVQA, config InfographicVQA, split validation"),
    "ocrbench": Benchmark(
        "OCRBench", "hits", rules.ocr, "a reference is contained in the answer; 1000 rows, so 0.911 is 911 hits",
        _HUB + "echo840/OCRBench", columns=("dataset", "question_type"), subsets={"question_type": OCRBENCH},
    ),
    "refspatial": Benchmark(
        "RefSpatial-Bench", "success", rules.in_mask, "share of the points that lie in the mask",
        _HUB + "BAAI/RefSpatial-Bench", columns=("mask", "split"),
        subsets={"split": ("location", "placement", "unseen")},
    ),
    "robospatial": Benchmark(
        "RoboSpatial-Home", "accuracy", rules.robospatial,
        "the answer begins with yes or no as gold does; the first point lies in the gold polygon",
        _HUB + "chanhee-luke/RoboSpatial-Home", columns=("category",),
        subsets={"category": ("compatibility", "configuration", "context")},
    ),
    "refcoco": _referring("RefCOCO", _HUB + "lmms-lab/RefCOCO"),
    "refcoco_plus": _referring("RefCOCO+", _HUB + "lmms-lab/RefCOCOplus"),
    "refcocog": _referring("RefCOCOg", _HUB + "lmms-lab/RefCOCOg"),
    "mmbench": Benchmark(
        "MMBench", "circular accuracy", rules.letter, "the option named, under all rotations of the options",
        _HUB + "lmms-lab/MMBench, config en, split dev, with its rotations written out", official=False,
        columns=("circular_id",), circular="circular_id",
    ),
    "mathvista": _judged(
        "MathVista", rules.mathvista, "option named or spelt most alike; whole or rounded number; same text",
        _HUB + "AI4Math/MathVista, split testmini", "answer_type", "precision",
    ),
    "mathverse": _judged(
        "MathVerse", rules.choice_or_math, "option named, or the same mathematical result", _HUB + "AI4Math/MathVerse"
    ),
    "mathvision": _judged(
        "MathVision", rules.choice_or_math, "option named, or the same mathematical result",
        _HUB + "MathLLMs/MathVision"
    ),
    "charxiv": _judged(
        "CharXiv (reasoning)", rules.number_or_text, "the same number, or the same text but for case",
        _HUB + "princeton-nlp/CharXiv, split validation",
    ),
}  # fmt: skip


def benchmark_named(name: Any) -> Benchmark:
    """Find a benchmark.

    Args:
        name: its short name, or the import path ``package.module.NAME`` of one from outside.

    Raises:
        UserError: if there is none of that name.
    """
    return instance(name, BENCHMARKS, Benchmark, "benchmark")


def known_benchmark(name: Any) -> Benchmark | None:
    """Find a benchmark; None if there is none of that name."""
    try:
        return benchmark_named(name)
    except UserError:
        return None


def benchmark_error(row: Mapping[str, Any]) -> str | None:
    """Say in one line why a row cannot be scored by the benchmark it names; None if it can, or names none.

    Args:
        row: a canonical data row; its column ``benchmark``, if any, names the benchmark.
    """
    if row.get("benchmark") is None:
        return None
    try:
        benchmark = benchmark_named(row["benchmark"])
    except UserError as error:
        return str(error)
    needed = ("answer", *benchmark.columns)
    if missing := [name for name in needed if row.get(name) is None]:
        return f"benchmark {row['benchmark']} needs the columns {', '.join(needed)}; missing: {', '.join(missing)}"
    for column, known in benchmark.subsets.items():
        if row[column] not in known:
            return f"{column!r} is {row[column]!r:.80}; benchmark {row['benchmark']} knows {', '.join(known)}"
    try:
        # any answer will do: what is tried is whether the row can be read
        benchmark.value("0", row)
    except ValueError as error:
        return f"benchmark {row['benchmark']}: {error}"
    except Exception as error:  # a rule from outside may raise anything
        return f"benchmark {row['benchmark']}: its rule fails ({one_line(error)})"
    return None
