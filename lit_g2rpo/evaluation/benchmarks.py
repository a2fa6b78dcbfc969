"""The benchmarks by name."""

from collections.abc import Mapping
from typing import Any

from lit_g2rpo.errors import UserError
from lit_g2rpo.evaluation import rules
from lit_g2rpo.evaluation.benchmark import Benchmark
from lit_g2rpo.evaluation.suite import Suite
from lit_g2rpo.evaluation.suites import rules as suite_rules
from lit_g2rpo.evaluation.suites import talks
from lit_g2rpo.registry import instance, one_line

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


_KIT, _LMMS = "VLMEvalKit 0.0.20 vlmeval/", "lmms-eval 0.7.3 lmms_eval/"
_INFERRED = Suite("VLMEvalKit d21c5e9 vlmeval/utils/matching_util.py, exact matching", suite_rules.inferred)
_REFCOCO = Suite(_KIT + "dataset/refcoco.py", suite_rules.overlap)
_ANLS = Suite(_LMMS + "api/metrics.py", rules.nearest_reference)


def _referring(title: str, source: str) -> Benchmark:
    words = "IoU of the one box with the gold box at least 0.5, on the 0..1000 grid"
    return Benchmark(title, "Acc@0.5", rules.overlap, words, source, _REFCOCO, hit_at=0.5, recalls=(0.3, 0.7))


def _anls(title: str, source: str) -> Benchmark:
    words = "edit similarity with the nearest reference, 0 below one half"
    return Benchmark(title, "ANLS", rules.nearest_reference, words, source, _ANLS)


BENCHMARKS = {
    "mmmu": Benchmark(
        "MMMU", "accuracy", rules.mmmu_answer,
        "the benchmark's parser; where it guesses an option at random, no answer", _HUB + "MMMU/MMMU, split validation",
        Suite(_LMMS + "tasks/mmmu/utils.py, no random guess", suite_rules.mmmu_answer),
    ),
    "mmstar": Benchmark(
        "MMStar", "accuracy", rules.letter, "the option named; mean over rows, and mean over categories",
        _HUB + "Lin-Chen/MMStar", _INFERRED, columns=("category", "l2_category"),
        subsets={"category": tuple(MMSTAR), "l2_category": tuple(name for names in MMSTAR.values() for name in names)},
    ),
    "ai2d": Benchmark("AI2D", "accuracy", rules.letter, "the option named", _HUB + "lmms-lab/ai2d", _INFERRED),
    "embspatial": Benchmark(
        "EmbSpatial", "accuracy", rules.letter, "the option named", _HUB + "FlagEval/EmbSpatial-Bench",
        Suite(_KIT + "dataset/utils/spatial_bench/matching_func.py", suite_rules.concluded),
    ),
    "chartqa": Benchmark(
        "ChartQA", "relaxed accuracy", rules.relaxed, "numbers within 5 %, other texts equal but for case",
        _HUB + "lmms-lab/ChartQA", Suite(_LMMS + "tasks/chartqa/utils.py", rules.relaxed),
        columns=("type",), subsets={"type": ("human", "augmented")},
    ),
    "docvqa": _anls("DocVQA", _HUB + "lmms-lab/DocVQA, config DocVQA, split validation"),
    "infovqa": _anls("InfoVQA", _HUB + "lmms-lab/DocVQA, config InfographicVQA, split validation"),
    "ocrbench": Benchmark(
        "OCRBench", "hits", rules.ocr, "a reference is contained in the answer; 1000 rows, so 0.911 is 911 hits",
        _HUB + "echo840/OCRBench", Suite(_LMMS + "tasks/ocrbench/utils.py", rules.ocr),
        columns=("dataset", "question_type"), subsets={"question_type": OCRBENCH},
    ),
    "refspatial": Benchmark(
        "RefSpatial-Bench", "success", rules.in_mask, "share of the points that lie in the mask",
        _HUB + "BAAI/RefSpatial-Bench", Suite(_LMMS + "tasks/refspatial/utils.py, JSON form", suite_rules.in_mask),
        columns=("mask", "split"), subsets={"split": ("location", "placement", "unseen")},
    ),
    "robospatial": Benchmark(
        "RoboSpatial-Home", "accuracy", rules.robospatial,
        "the answer begins with yes or no as gold does; the first point lies in the gold polygon",
        _HUB + "chanhee-luke/RoboSpatial-Home", Suite(_KIT + "dataset/robospatialbench.py", suite_rules.robospatial),
        columns=("category",), subsets={"category": ("compatibility", "configuration", "context")},
    ),
    "refcoco": _referring("RefCOCO", _HUB + "lmms-lab/RefCOCO"),
    "refcoco_plus": _referring("RefCOCO+", _HUB + "lmms-lab/RefCOCOplus"),
    "refcocog": _referring("RefCOCOg", _HUB + "lmms-lab/RefCOCOg"),
    "mmbench": Benchmark(
        "MMBench", "circular accuracy", rules.letter, "the option named, under all rotations of the options",
        "opencompass.openxlab.space/utils/VLMEval/MMBench_DEV_EN.tsv",
        Suite("VLMEvalKit d21c5e9 vlmeval/dataset/utils/multiple_choice.py", suite_rules.inferred, talks.mmbench),
        columns=("circular_id",), circular="circular_id",
    ),
    "mathvista": Benchmark(
        "MathVista", "accuracy", rules.mathvista,
        "option named or spelt most alike; whole or rounded number; same text",
        _HUB + "AI4Math/MathVista, split testmini",
        Suite(_KIT + "dataset/utils/mathvista.py", suite_rules.mathvista, talks.mathvista, judged=True),
        columns=("answer_type", "precision"),
    ),
    "mathverse": Benchmark(
        "MathVerse", "accuracy", rules.choice_or_math, "option named, or the same mathematical result",
        _HUB + "AI4Math/MathVerse",
        Suite(_KIT + "dataset/utils/mathverse.py", suite_rules.unread, talks.mathverse, judged=True),
    ),
    "mathvision": Benchmark(
        "MathVision", "accuracy", rules.choice_or_math, "option named, or the same mathematical result",
        _HUB + "MathLLMs/MathVision",
        Suite(_KIT + "dataset/utils/mathv.py", suite_rules.mathvision, talks.mathvision, judged=True),
    ),
    "charxiv": Benchmark(
        "CharXiv (reasoning)", "accuracy", rules.number_or_text, "the same number, or the same text but for case",
        _HUB + "princeton-nlp/CharXiv, split validation",
        Suite(_KIT + "dataset/charxiv.py", suite_rules.unread, talks.charxiv, judged=True),
    ),
}  # fmt: skip


def benchmark_named(name: Any) -> Benchmark:
    """Find a benchmark.

    Args:
        name: its short name, or the import path ``package.module.NAME`` of a custom one.

    Raises:
        UserError: if no benchmark has that name.
    """
    return instance(name, BENCHMARKS, Benchmark, "benchmark")


def known_benchmark(name: Any) -> Benchmark | None:
    """Find a benchmark; None if no benchmark has that name."""
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
        # any answer will do: this only tests whether the row can be read
        benchmark.value("0", row)
    except ValueError as error:
        return f"benchmark {row['benchmark']}: {error}"
    except Exception as error:  # a custom rule may raise anything
        return f"benchmark {row['benchmark']}: its rule fails ({one_line(error)})"
    return None
