"""Measure the cost of built-in rewards: CPU time per completion of each problem type, and of a 512 x 8 math rollout.

The first table is for one thread and includes reasoning of 200 words. In the second, CPU time includes starting the
algebra processes, and is more reliable than wall-clock time on a shared machine.

python benchmarks/rewards.py --json rewards.json
"""

import argparse
import json
import os
import random
import time
from pathlib import Path

from lit_g2rpo.rewards import RewardConfig, score
from lit_g2rpo.rewards.rows.canonical import canonical
from lit_g2rpo.rewards.running.adapters import Batch
from lit_g2rpo.rewards.running.limits import Limits
from lit_g2rpo.rewards.running.scorer import Scorer

REPEATS = 2000
COMPLETIONS = 4096
GROUP = 8


def boxes(count: int, shift: int = 0) -> str:
    """Write boxes with labels in the format of detection."""
    return json.dumps([
        {"bbox_2d": [20 * i + shift, 10 * i, 20 * i + 90 + shift, 10 * i + 90], "label": f"thing {i % 5}"}
        for i in range(count)
    ])  # fmt: skip


def track(count: int, shift: int = 0) -> str:
    """Write one box per second."""
    return json.dumps({"boxes": {str(i): [10 * i + shift, 10, 10 * i + 300 + shift, 500] for i in range(count)}})


def timed(count: int, shift: int = 0) -> str:
    """Write a time span and one box per second."""
    return json.dumps({"time": [0.5 + shift, count], **json.loads(track(count, shift))})


SEGMENT = {
    "boxes": [100, 100, 300, 300],
    "positive_points": [[150, 150], [200, 200], [250, 250]],
    "negative_points": [[50, 50], [400, 400], [350, 100]],
}
LINE = "The quick brown fox jumps over the lazy dog. " * 8
FAMILIES: dict[str, tuple[str, list[str], list[str]]] = {
    "multiple choice": ("B", ["B", "(c)", "**B**", "B. a green one", "a blue one", "I do not know"],
                        ["a red one", "a green one", "a blue one", "none"]),
    "numerical": ("40.33", ["40.33", "40.3", "$40.33$", "about 40"], []),
    "regression": ("2.5", ["2.5", "2.6", "3 m"], []),
    "OCR": (LINE, [LINE, LINE.upper(), LINE[:200]], []),
    "math, without algebra": ("42 cm", ["42 cm", "42", "43", "42\\text{ m}", "x=42"], []),
    "spatial grounding": ('{"boxes": [100, 100, 300, 300]}', ['{"boxes": [100, 110, 300, 290]}',
                          '[{"bbox_2d": [100, 100, 300, 300]}]', '{"boxes": [1, 2, 3]}'], []),
    "document": ('["12 May 1998", "May 12, 1998"]', ["12 May 1998", "12 May 1989", "unknown"], []),
    "chart": ("14.2%", ["14.2", "14.9%", "blue"], []),
    "counting": ("7", ["7", "seven", "8"], []),
    "point grounding": ('{"polygon": [[100, 100], [300, 100], [300, 300]]}', ['[{"point_2d": [250, 150]}]',
                        json.dumps([[10 * i, 10 * i] for i in range(10)])], []),
    "GUI grounding": ('{"boxes": [100, 100, 300, 200]}', ['{"point_2d": [150, 150]}', "[500, 500]"], []),
    "detection, 5 boxes": (boxes(5), [boxes(5), boxes(5, 30), boxes(8)], []),
    "segmentation": (json.dumps(SEGMENT), [json.dumps(SEGMENT), json.dumps(SEGMENT | {"boxes": [1, 1, 9, 9]})], []),
    "temporal grounding": ('{"time": [10, 20]}', ['{"time": [11, 20]}', "10 to 20"], []),
    "spatial-temporal grounding, 10 s": (timed(10), [timed(10), timed(10, 5), timed(8)], []),
    "tracking, 10 s": (track(10), [track(10), track(10, 5), track(8)], []),
    "open-ended, rouge_l": ("A dog sleeps in the sun.", ["A dog sleeps in the sun.", "A cat in the shade."], []),
    "scientific, a number": ("9.81", ["9.81", "9.8", "ten"], []),
}  # fmt: skip
"""Gold answer, answers and options of each problem type; text after a comma only names the case."""


def family_costs() -> dict[str, float]:
    """Measure CPU microseconds per completion of each problem type."""
    rng, config = random.Random(0), RewardConfig(open_ended="rouge_l")
    reasoning = " ".join(rng.choices(["so", "the", "box", "angle", "therefore,", "left", "12", "of"], k=200))
    costs = {}
    for name, (gold, answers, options) in FAMILIES.items():
        kind = name.partition(",")[0]
        row = canonical({"problem": "?", "problem_type": kind, "task_type": "t", "answer": gold, "options": options})
        texts = [f"<thinking>{reasoning}</thinking><answer>{answer}</answer>" for answer in answers]
        for text in texts:
            score(text, row, config)
        start = time.process_time()
        for i in range(REPEATS):
            score(texts[i % len(texts)], row, config)
        costs[name] = (time.process_time() - start) / REPEATS * 1e6
    # results of reading are cached, which must not help here
    completions, samples = mix("fresh", 0.0, False)
    rows = [canonical({**sample, "task_type": "t"}) for sample in samples]
    start = time.process_time()
    for completion, row in zip(completions, rows, strict=True):
        score(completion, row, config)
    costs["math, without algebra, no answer twice"] = (time.process_time() - start) / COMPLETIONS * 1e6
    return costs


def plain(rng: random.Random) -> tuple[str, list[str]]:
    """Make a gold number and answers that need no algebra.

    Args:
        rng: source of randomness.

    Returns:
        The gold result and possible answers.
    """
    a, b = rng.randint(2, 999), rng.randint(2, 99)
    return rng.choice([
        (str(a), [str(a), f"{a}.0", f"${a}$", str(a + 1), f"x={a}"]),
        (f"\\frac{{{a}}}{{{b}}}", [f"{a}/{b}", f"\\dfrac{{{a}}}{{{b}}}", str(a), f"{a / b:.9f}"]),
        (f"{a} cm", [f"{a} cm", str(a), f"{a}\\text{{ m}}"]),
    ])  # fmt: skip


def symbolic(rng: random.Random) -> tuple[str, list[str]]:
    """Make a gold expression and answers that need algebra.

    Args:
        rng: source of randomness.

    Returns:
        The gold result and possible answers.
    """
    a, b, c = rng.randint(2, 99), rng.randint(2, 99), rng.randint(2, 99)
    return rng.choice([
        (f"{a}\\sqrt{{{b}}}", [f"\\sqrt{{{a * a * b}}}", f"\\sqrt{{{b}}} \\cdot {a}", f"{a}\\sqrt{{{b + 1}}}"]),
        (f"(x+{a})(x-{b})", [f"x^2+{a - b}x-{a * b}", f"(x-{b})(x+{a})", f"x^2-{a * b}"]),
        (f"\\frac{{{a}\\pi}}{{{b}}}", [f"{a}\\pi/{b}", f"\\pi \\frac{{{a}}}{{{b}}}", f"\\frac{{{b}\\pi}}{{{a}}}"]),
        (f"{a}x+{b}y+{c}", [f"{c}+{b}y+{a}x", f"{a}x+{c}+{b}y", f"{b}x+{a}y+{c}"]),
        (f"[{a},{a + b})", [f"[{a}, {a + b})", f"{a} \\le x < {a + b}", f"({a},{a + b})"]),
    ])  # fmt: skip


def mix(name: str, share: float, repeats: bool) -> tuple[list[str], list[dict[str, object]]]:
    """Make a rollout.

    Args:
        name: seed.
        share: fraction of prompts that need algebra.
        repeats: repeat answers as in a policy's groups; else no pair of answer and gold occurs twice.

    Returns:
        Completions and their rows.
    """
    rng = random.Random(name)
    completions: list[str] = []
    samples: list[dict[str, object]] = []
    seen: set[tuple[str, str]] = set()
    while len(completions) < COMPLETIONS:
        gold, answers = symbolic(rng) if rng.random() < share else plain(rng)
        chosen = rng.choices(answers, k=GROUP) if repeats else [a for a in answers if (a, gold) not in seen]
        seen |= {(answer, gold) for answer in chosen}
        for answer in chosen[: COMPLETIONS - len(completions)]:
            reasoning = f"step {rng.random()} " * 40
            completions.append(f"<thinking>{reasoning}</thinking><answer>{answer}</answer>")
            samples.append({"problem": "", "problem_type": "math", "answer": gold})
    return completions, samples


def main() -> None:
    """Print the table, and JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the figures there too")
    arguments = parser.parse_args()
    mixes = {
        "numbers only, repeated": mix("plain", 0.0, True),
        "half algebra, repeated": mix("half", 0.5, True),
        "half algebra, all distinct": mix("distinct", 0.5, False),
        "all algebra, all distinct": mix("worst", 1.0, False),
    }
    costs = family_costs()
    print("| problem type | CPU us a completion |\n|---|---|")
    for name, cost in costs.items():
        print(f"| {name} | {cost:.0f} |", flush=True)
    figures: dict[str, object] = {"microseconds": costs}
    print(f"\n| {COMPLETIONS} completions, {arguments.workers} processes | s | CPU s | right | time-outs | restarts |")
    print("|---|---|---|---|---|---|")
    for name, (completions, samples) in mixes.items():
        before = sum(os.times()[:4])
        scorer = Scorer(RewardConfig(), {}, limits=Limits(workers=arguments.workers))
        # one concurrent comparison per process, so that all of them start
        warm = [f"<thinking></thinking><answer>y+{i}x</answer>" for i in range(4 * arguments.workers)]
        row = {"problem": "", "problem_type": "math", "answer": "x+y"}
        scorer.score(Batch(warm, [row] * len(warm), ["math_reasoning"] * len(warm)))
        start = time.perf_counter()
        results = scorer.score(Batch(completions, samples, ["math_reasoning"] * COMPLETIONS))
        seconds = time.perf_counter() - start
        scorer.close()
        cpu = sum(os.times()[:4]) - before
        right = sum(result.accuracy for result in results) / COMPLETIONS
        figures[name] = {
            "seconds": seconds,
            "cpu_seconds": cpu,
            "right": right,
            "timeouts": scorer.timeouts,
            "restarts": scorer.restarts,
        }
        line = f"| {name} | {seconds:.2f} | {cpu:.2f} | {right:.3f} | {scorer.timeouts} | {scorer.restarts} |"
        print(line, flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
