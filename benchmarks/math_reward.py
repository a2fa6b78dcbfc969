"""How long the maths reward takes for a rollout of 4,096 completions, its processes started before the clock.

CPU time has the start of the processes in it; it says more than the clock on a machine that others use.

python benchmarks/math_reward.py --json math_reward.json
"""

import argparse
import json
import os
import random
import time
from pathlib import Path

from lit_g2rpo.rewards.config import RewardConfig
from lit_g2rpo.rewards.running.adapters import Batch
from lit_g2rpo.rewards.running.limits import Limits
from lit_g2rpo.rewards.running.scorer import Scorer

COMPLETIONS = 4096
GROUP = 8


def plain(rng: random.Random) -> tuple[str, list[str]]:
    """Make a gold number and answer that need no algebra.

    Args:
        rng: source of chance.

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
    """Make a gold expression and answer that need algebra.

    Args:
        rng: source of chance.

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
        name: seeds it.
        share: share of prompts that need algebra.
        repeats: a policy's groups, whose answers repeat; else no pair of answer and gold occurs twice.

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
    figures = {}
    print(f"| {COMPLETIONS} completions, {arguments.workers} processes | s | CPU s | right | time-outs | restarts |")
    print("|---|---|---|---|---|---|")
    for name, (completions, samples) in mixes.items():
        before = sum(os.times()[:4])
        scorer = Scorer(RewardConfig(), {}, limits=Limits(workers=arguments.workers))
        # one comparison for each process, at the same time, so that all of them start
        warm = [f"<thinking></thinking><answer>\\sqrt{{{i}}}x</answer>" for i in range(4 * arguments.workers)]
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
