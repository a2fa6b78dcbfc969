"""Measure the cost of the head: log-probability, entropy and gradients of a clipped loss, in several implementations.

python benchmarks/head.py --rows 1024 4096
python benchmarks/head.py --device cuda --dtype bfloat16 --hidden 4096 --rows 32768 --json head.json

``full`` builds the logits of all rows, ``recompute`` tiles of them twice, ``one-pass`` tiles of them once; ``trl`` is
the head of TRL's trainers. Every case runs in its own process; ratios are to ``full``. The error is that of loss and
gradients against float64 at 300 rows and 1,003 entries.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from common import machine, write_json
from peak import in_own_process, measure
from torch import Tensor

from lit_g2rpo.objectives import G2RPO
from lit_g2rpo.objectives.fields import TokenFields
from lit_g2rpo.policy.head.token_stats import head_loss, token_logprobs

TOKEN_LOSS = G2RPO().token_loss
Head = Callable[[Tensor, Tensor, Tensor, TokenFields], Tensor]


def full(hidden: Tensor, weight: Tensor, targets: Tensor, fields: TokenFields) -> Tensor:
    """Compute the loss from the logits of all rows, without entropy, in float32 or wider."""
    logits = hidden @ weight.T
    logits = logits if logits.dtype == torch.float64 else logits.float()
    logprobs = logits.log_softmax(-1).gather(-1, targets[:, None])[:, 0]
    return TOKEN_LOSS(logprobs, logprobs.detach(), fields)[0].sum()


def recompute(hidden: Tensor, weight: Tensor, targets: Tensor, fields: TokenFields) -> Tensor:
    """Compute the loss from tiles that the backward recomputes."""
    return TOKEN_LOSS(*token_logprobs(hidden, weight, targets), fields)[0].sum()


def one_pass(hidden: Tensor, weight: Tensor, targets: Tensor, fields: TokenFields) -> Tensor:
    """Compute the loss from tiles along with their gradients."""
    return head_loss(hidden, weight, targets, fields, TOKEN_LOSS)[0]


def trl(hidden: Tensor, weight: Tensor, targets: Tensor, fields: TokenFields) -> Tensor:
    """Compute the loss from TRL's tiles of tokens and vocabulary, which its backward recomputes."""
    from trl.kernels import ChunkedLogProbFunction
    from trl.trainer.utils import _CHUNKED_LOGPROB_CHUNK_SIZE as SIZE

    logprobs, entropy, *_ = ChunkedLogProbFunction.apply(
        hidden, weight, None, targets, 1.0, SIZE, None, 1.0, ("entropy",)
    )
    return TOKEN_LOSS(logprobs, entropy, fields)[0].sum()


HEADS: dict[str, Head] = {"full": full, "recompute": recompute, "one-pass": one_pass, "trl": trl}


def inputs(rows: int, vocabulary: int, width: int, device: str, dtype: torch.dtype) -> tuple[Any, ...]:
    """Make hidden states, head, targets and fields of a rollout whose policy has changed a little since.

    Args:
        rows: tokens ``M``.
        vocabulary: entries ``V``.
        width: hidden size ``H``.
        device: device of the tensors.
        dtype: dtype of hidden states and head.

    Returns:
        ``hidden [M, H]``, ``weight [V, H]``, ``targets [M]`` and the fields.
    """
    torch.manual_seed(0)
    hidden = torch.randn(rows, width, device=device, dtype=dtype)
    weight = torch.randn(vocabulary, width, device=device, dtype=dtype).mul_(width**-0.5)
    targets = torch.randint(vocabulary, (rows,), device=device)
    # Close to the log-probabilities of these weights, so that few ratios are clipped.
    old = torch.randn(rows, device=device) - torch.log(torch.tensor(float(vocabulary))).item() - 0.5
    ones = torch.ones(rows, device=device)
    advantages = torch.randn(rows, device=device)
    return hidden, weight, targets, TokenFields(advantages, old, None, ones / rows, 0 * ones, targets)


def run(case: dict[str, Any]) -> dict[str, float]:
    """Measure one case in this process.

    Args:
        case: ``head``, ``rows``, ``vocabulary``, ``hidden``, ``device``, ``dtype``, ``frozen`` and ``repeats``.

    Returns:
        ``seconds``, ``peak_gib`` and ``error`` (largest relative error of loss and gradients).
    """
    head, device = HEADS[case["head"]], case["device"]

    def error() -> float:
        hidden, weight, targets, fields = inputs(300, 1003, 64, device, getattr(torch, case["dtype"]))
        results = []
        for work, dtype in ((head, hidden.dtype), (full, torch.float64)):
            leaves = [x.to(dtype).requires_grad_() for x in (hidden, weight)]
            loss = work(*leaves, targets, fields)
            results.append([loss, *torch.autograd.grad(loss, leaves)])
        return max(float((a - b).norm() / b.norm()) for a, b in zip(*results, strict=True))

    result = {"error": error()}
    hidden, weight, targets, fields = inputs(
        case["rows"], case["vocabulary"], case["hidden"], device, getattr(torch, case["dtype"])
    )
    hidden.requires_grad_()
    weight.requires_grad_(not case["frozen"])

    def work() -> None:
        head(hidden, weight, targets, fields).backward()  # type: ignore[no-untyped-call]
        # Freed before the next call, so that every call's peak includes its gradients.
        hidden.grad = weight.grad = None

    return result | measure(work, device, case["repeats"])


def main() -> None:
    """Print the table, and JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--heads", nargs="+", choices=HEADS, default=list(HEADS))
    parser.add_argument("--rows", nargs="+", type=int, default=[1024, 4096], help="tokens")
    parser.add_argument("--vocabulary", type=int, default=151_936)
    parser.add_argument("--hidden", type=int, default=256, help="hidden size")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--frozen", action="store_true", help="the head's weight does not learn")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the figures there too")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.only:
        case = json.loads(arguments.only)
        torch.set_num_threads(case["threads"])
        print(json.dumps(run(case)))
        return
    keys = ("vocabulary", "hidden", "device", "dtype", "frozen", "repeats", "threads")
    shared = {key: getattr(arguments, key) for key in keys}
    results = [
        case | in_own_process(__file__, case)
        for rows in arguments.rows
        for case in ({"head": head, "rows": rows} | shared for head in arguments.heads)
    ]
    print(f"V {arguments.vocabulary}, H {arguments.hidden}, {arguments.dtype}, {arguments.device}, {machine()}")
    print("| rows | head | seconds | to full | peak GiB | to full | error |\n|---|---|---|---|---|---|---|")
    for result in results:
        start = f"| {result['rows']} | {result['head']} |"
        if "skipped" in result:
            print(f"{start} skipped: {result['skipped']} | | | | |")
            continue
        base = next((r for r in results if r["rows"] == result["rows"] and r["head"] == "full" and "peak_gib" in r), {})
        ratios = [f"{result[key] / base[key]:.3f}" if base else "-" for key in ("seconds", "peak_gib")]
        print(
            f"{start} {result['seconds']:.3f} | {ratios[0]} | {result['peak_gib']:.3f} | {ratios[1]} | "
            f"{result['error']:.1e} |"
        )
    write_json(arguments.json, {"machine": machine(), "results": results})


if __name__ == "__main__":
    main()
