"""Rollouts and updates on the fake CUDA device, in a process of its own; prints how each case went as JSON.

Arguments: the library built from ``fake_cuda.cpp``, the folder of a policy.
"""

import ctypes
import json
import sys

if __name__ == "__main__":
    # it must be there when torch looks for devices
    ctypes.CDLL(sys.argv[1], mode=ctypes.RTLD_GLOBAL)

import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import pairwise
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import lightning.pytorch as L
import torch

import lit_g2rpo.policy.forward.packing
import lit_g2rpo.rollout.native.engine
from helpers.build import varied_score
from helpers.fake_cuda import FakeCuda
from helpers.prompts import make_prompt
from lit_g2rpo.experience import Completion, Experience, Prompt
from lit_g2rpo.hardware.collectives import Ranks
from lit_g2rpo.objectives import G2RPO, GRPO, Objective
from lit_g2rpo.policy.config import LoraConfig, PolicyConfig
from lit_g2rpo.policy.forward.layers import Norm
from lit_g2rpo.policy.loading import load_policy
from lit_g2rpo.policy.policy import Policy
from lit_g2rpo.rollout.engine import Sampling
from lit_g2rpo.rollout.native.engine import NativeEngine
from lit_g2rpo.rollout.native.slots import Slots, StepShape
from lit_g2rpo.tasks import task
from lit_g2rpo.training.checks import gradient_norm
from lit_g2rpo.training.logprobs import logprobs_of, ref_logprobs
from lit_g2rpo.training.metrics import StepMetrics
from lit_g2rpo.training.table import Cut, build_microbatches, build_table, shaped_columns, to_share

TASKS = {"ocr": task("ocr")}
# Images by prompt: a micro-batch without rows, one with two images, one without images, and one of two groups
IMAGES = {"unused": 1, "two": 2, "text": 0, "one": 1, "other": 1}
ALL = len(IMAGES)
GROUP = 2
TOKENS = 17  # two turns of decoding after the first token
SLOTS = 4
MICROBATCHES = 4
MINE = G2RPO(entropy_coefficient=0.1, kl_coefficient=0.05, length_weight=0.1)
WHOLE = GRPO(loss="gspo", mean="completion")


@dataclass
class Case:
    """A policy and how it is sampled and trained.

    Args:
        options: those of `PolicyConfig`.
        mixed: compute in bfloat16 by autocast.
        objective: the loss.
        sampling: how tokens are drawn.
        known: number of prompts, the last ones, whose completions are known: rows end at different steps, and
            nothing is decoded if all are.
        plant: plants a fault for the run.
    """

    options: dict[str, Any] = field(default_factory=dict)
    mixed: bool = False
    objective: Objective = MINE
    sampling: Sampling = field(default_factory=lambda: Sampling(TOKENS))
    known: int = 2
    plant: Callable[[], AbstractContextManager[Any]] = nullcontext


class Run:
    """A case on the device, with the waits of each of its parts."""

    def __init__(self, case: Case, folder: str, device: FakeCuda) -> None:
        self.case, self.device = case, device
        self.waits: dict[str, list[list[str]]] = {}
        self.casts: dict[str, list[str]] = {}
        self.policy: Policy = load_policy(PolicyConfig(path=folder, **case.options)).train()
        device.adopt(self.policy)
        self.precision = lambda: torch.autocast("cuda", torch.bfloat16, enabled=case.mixed)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Run a part, and keep its waits and casts of weights under its name."""
        waits, casts = len(self.device.waits), len(self.device.casts)
        yield
        self.waits.setdefault(name, []).append(self.device.waits[waits:])
        self.casts.setdefault(name, []).extend(self.device.casts[casts:])

    def everything(self) -> None:
        """Sample and learn, with the parts that `G2RPOModule` calls."""
        prompts = [make_prompt(name, images, 5 - images) for name, images in IMAGES.items()]
        with self.precision():
            with self.part("features"):
                self.policy.prepare_features(prompts)
            completions = self.sampled(prompts)
            experience = self.scored(prompts, completions)
            with self.part("cut"):
                cut = Cut(1, MICROBATCHES, 1, TOKENS, self.case.objective)
                microbatches = build_microbatches(experience, cut, self.policy.empty)
        optimizer = torch.optim.AdamW([p for p in self.policy.parameters() if p.requires_grad], lr=1e-3)
        metrics = StepMetrics(list(TASKS), Ranks(L.Trainer(accelerator="cpu", logger=False)), MICROBATCHES)
        assert [len(microbatch.prompts) // GROUP for microbatch in microbatches] == [0, 1, 1, 2]
        for index, microbatch in enumerate(microbatches):
            torch.manual_seed(index)
            with self.part("micro-batch"):
                with self.precision():
                    loss, found = self.policy.loss(microbatch, self.case.objective.token_loss)
                loss.backward()
                metrics.add(found, microbatch.fields, on_policy=True)
        with self.part("optimizer step"):
            metrics.reduce()
            gradient_norm(self.policy)
            torch.nn.utils.clip_grad_norm_(self.policy.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()

    def sampled(self, prompts: list[Prompt]) -> list[Completion]:
        """Sample, with the waits of each turn."""
        engine = NativeEngine(slots=SLOTS)
        engine.attach(self.policy)
        end = self.policy.eos_token_ids[0]
        engine.known = {
            prompt.id: [_completion([*[40] * length, end]) for length in ([3, 5] if number % 2 else [6, 12])]
            for number, prompt in enumerate(prompts)
            if number >= len(prompts) - self.case.known
        }
        start, turns = len(self.device.waits), []
        turn_over = Slots.turn_over

        def counted(slots: Slots, waiting: Any) -> bool:
            turns.append(len(self.device.waits))
            return turn_over(slots, waiting)

        def captured(step: Callable[[StepShape], None]) -> Callable[[StepShape], None]:
            def replay(shape: StepShape) -> None:
                with self.part("captured step"):
                    step(shape)

            return replay

        Slots.turn_over, lit_g2rpo.rollout.native.engine.captured = counted, captured
        try:
            completions = engine.generate(prompts, GROUP, self.case.sampling)
        finally:
            Slots.turn_over = turn_over
        turns.append(len(self.device.waits))
        self.waits["prefill"] = [self.device.waits[start : min(turns, default=None)]]
        self.waits["decoding turn"] = [self.device.waits[a:b] for a, b in pairwise(turns)]
        assert [len(c.token_ids) for c in completions[-4:]] == [4, 6, 7, 13]
        return completions

    def scored(self, prompts: list[Prompt], completions: list[Completion]) -> Experience:
        """Score, and compute the log-probabilities that learning needs."""
        rewards = [varied_score(f"{i}", {}) for i in range(len(completions))]
        objective = self.case.objective
        shared = to_share(prompts, completions, rewards, list(TASKS), [0] * len(prompts))
        column = shaped_columns(shared, objective, TASKS, TOKENS)
        usable = torch.tensor([name != "unused" for name in IMAGES])
        table = build_table(column, usable, objective, TASKS)
        table.entropy_direction.zero_()
        experience = Experience(prompts, completions, rewards, None, None, table)
        run: Any = SimpleNamespace(
            policy=self.policy, reference=None, objective=objective, update=SimpleNamespace(microbatches=MICROBATCHES)
        )
        with torch.no_grad(), self.part("log-probabilities"):
            experience.old_logprobs = logprobs_of(run, self.policy, experience)
            if self.case.options.get("lora"):
                experience.ref_logprobs = ref_logprobs(run, experience)
            else:
                experience.ref_logprobs = experience.old_logprobs
        return experience


def _completion(ids: list[int]) -> Completion:
    zeros = torch.zeros(len(ids))
    return Completion(torch.tensor(ids), zeros, zeros, "", False)


def indices_left_on_the_host() -> AbstractContextManager[Any]:
    """Plant a mismatch."""
    return patch.object(lit_g2rpo.policy.forward.packing, "send", lambda tensor, device: tensor)


def number_read_in_each_norm() -> AbstractContextManager[Any]:
    """Plant a wait."""
    forward = Norm.forward

    def reading(norm: Norm, x: torch.Tensor) -> torch.Tensor:
        norm.weight.detach()[0].item()
        return forward(norm, x)

    return patch.object(Norm, "forward", reading)


LORA = LoraConfig(rank=4, alpha=8, dropout=0.1)
CASES = {
    "float32": Case(),
    "bfloat16": Case(
        {"dtype": "bfloat16", "activation_checkpointing": "full"}, objective=WHOLE, sampling=Sampling(TOKENS, 0)
    ),
    "mixed precision": Case(
        {"activation_checkpointing": "selective"}, mixed=True, sampling=Sampling(TOKENS, 0.7, top_p=0.9, top_k=5)
    ),
    "adapters": Case({"lora": LORA}, mixed=True),
    "adapters on bfloat16": Case({"lora": LORA, "dtype": "bfloat16", "features_on_device_mib": 0.0}),
    "frozen tower": Case({"freeze": ["vision", "merger"]}, mixed=True, known=ALL),
    "padded rows": Case({"packing": False}, known=ALL),
    "planted mismatch": Case(known=ALL, plant=indices_left_on_the_host),
    "planted wait": Case(known=ALL, plant=number_read_in_each_norm),
}


def main(folder: str, names: list[str]) -> None:
    """Run cases."""
    torch.set_num_threads(1)
    torch.cuda.is_available = lambda: True
    # tensors without numbers know no inference mode, which tests on the CPU cover
    torch.inference_mode = lambda mode=True: torch.set_grad_enabled(not mode)  # type: ignore[assignment, misc]
    torch.cuda.is_bf16_supported = lambda *_, **__: True  # type: ignore[assignment]
    torch.cuda._lazy_init = lambda: None  # type: ignore[attr-defined]
    results = {}
    for name in names or CASES:
        device = FakeCuda()
        run = Run(CASES[name], folder, device)
        error = None
        try:
            with run.case.plant(), device.running():
                run.everything()
        except Exception:
            error = traceback.format_exc()
        results[name] = {"error": error, "waits": run.waits, "casts": run.casts}
    print(json.dumps(results))


if __name__ == "__main__":
    main(sys.argv[2], sys.argv[3:])
