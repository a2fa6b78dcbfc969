"""Train once more on the completions of a run, in float64 with Hugging Face's own forward, a whole step at a time.

Shaping, filtering, refills, losses and updates are written out here, and advantages in `replay_advantages`. Only what
the run sampled is taken from it.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn.functional import pad
from transformers import AutoTokenizer, Qwen3VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from helpers.replay_advantages import Values, advantages

DEFAULTS = {
    "loss": "ppo", "mean": "token", "clip_low": 0.2, "clip_high": 0.3, "dual_clip": 3.0, "tau_positive": 1.0,
    "tau_negative": 1.05, "importance_cap": None, "mask_truncated": False, "kl_coefficient": 0.0, "kl_estimator": "k3",
    "entropy_coefficient": 0.0, "entropy": "exact", "length_weight": 0.0, "overlong_weight": 0.0,
    "overlong_share": 0.2, "filtering": "drop", "refill_waves": 4, "scope": "group_then_task",
    "advantage_key": "problem_type", "decay": 0.99, "length_power": 0.5,
}  # fmt: skip
"""What an objective does unless told otherwise, by the documentation."""


def outcome(text: str, sample: dict[str, Any]) -> tuple[float, float, float]:
    """Accuracy, format and structure of a completion by its digest; some prompts are answered wrong always."""
    digest = hashlib.sha256(text.encode()).digest()
    accuracy = 0.0 if sample["hopeless"] else (0.0, 0.4, 1.0)[digest[0] % 3]
    return accuracy, float(digest[1] % 2), 0.5 * (digest[2] % 2)


@dataclass(eq=False)
class Row:
    """A completion as the run sampled it, then what was computed before the first update."""

    tokens: Tensor
    sampled: Tensor
    text: str
    truncated: bool
    advantage: float = 0.0
    old: Tensor | None = None
    ref: Tensor | None = None
    entropy: float = 0.0

    @property
    def length(self) -> int:
        return len(self.tokens)


@dataclass(eq=False)
class Group:
    """A prompt with its completions."""

    prompt: Any
    rows: list[Row]
    kept: bool = True

    @property
    def parts(self) -> Values:
        return np.array([outcome(row.text, self.prompt.sample) for row in self.rows]).T


@dataclass(eq=False)
class Settings:
    """A run's settings.

    Args:
        method: name of the objective's class.
        coefficients: as given to the objective.
        updates: optimizer steps per pass.
        epochs: passes per rollout.
        limit: longest completion.
        lr: learning rate.
        recompute: the trainer computes the old log-probabilities.
        clip: largest norm of the gradient; None for no limit.
        scale: factor of the adapters' product.
        tasks: name to thresholds of length and of entropy.
    """

    method: str
    coefficients: dict[str, Any]
    updates: int
    epochs: int
    limit: int
    lr: float
    recompute: bool
    clip: float | None
    scale: float
    tasks: dict[str, tuple[tuple[float, ...], tuple[float, float]]]


class Replay:
    """A second training of the same policy.

    Args:
        folder: the policy.
        weights: its weights at the start, by Hugging Face's names; adapters as ``<name>.A`` and ``<name>.B``.
        learns: names of those that are trained.
        settings: of the run.
    """

    def __init__(self, folder: str, weights: dict[str, Tensor], learns: list[str], settings: Settings) -> None:
        self.settings, self.c = settings, DEFAULTS | settings.coefficients
        if settings.method == "Supervised":
            self.c["filtering"] = "off"
        self.inputs = Inputs(folder)
        self.model = Qwen3VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float64).eval()
        self.learns = learns
        self.weights = {name: weight.clone().requires_grad_(name in learns) for name, weight in weights.items()}
        self.reference = {name: weight.clone() for name, weight in weights.items() if name[-2:] not in (".A", ".B")}
        self.moments: dict[str, Values] = {}
        self.refilled = self.dropped = self.steps = 0

    def rollout(self, draws: list[list[Group]]) -> None:
        """Learn from the draws of a rollout: the first, and the waves that replace groups."""
        groups = self.filled(draws)
        for group in groups:
            group.kept = self.c["filtering"] == "off" or self.teaches(group)
            self.dropped += not group.kept
        self.compare([group for group in groups if group.kept])
        with torch.no_grad():
            own = self.forward(groups, self.weights)
            refs = self.forward(groups, self.reference) if self.c["kl_coefficient"] else own
        for row, (logprobs, entropy), (ref, _) in zip(rows_of(groups), own, refs, strict=True):
            row.old, row.ref = logprobs if self.settings.recompute else row.sampled, ref
            row.entropy = float(entropy.sum())
        sides = {task: self.side(task, groups) for task in self.settings.tasks}
        cuts = [len(groups) * i // self.settings.updates for i in range(self.settings.updates + 1)]
        for first, last in list(pairwise(cuts)) * self.settings.epochs:
            self.step(groups[first:last], sides)

    def filled(self, draws: list[list[Group]]) -> list[Group]:
        """Put the groups of each wave in the places of those that taught nothing."""
        groups = list(draws[0])
        for wave in draws[1:]:
            missing = [i for i, group in enumerate(groups) if not self.teaches(group)]
            for i, group in zip(missing, wave, strict=True):
                assert group.prompt.task == groups[i].prompt.task
                groups[i] = group
            self.refilled += len(wave)
        if self.c["filtering"] == "refill":
            assert all(map(self.teaches, groups)) or len(draws) == 1 + self.c["refill_waves"]
        return groups

    def teaches(self, group: Group) -> bool:
        compared = group.parts if "GDPO" in self.settings.method else [self.reward(group)]
        return bool(0.01 < group.parts[0].mean() < 0.99 and any(np.ptp(values) > 1e-6 for values in compared))

    def reward(self, group: Group) -> Values:
        """Total rewards, shaping included."""
        band, rewards = self.settings.tasks[group.prompt.task][0], []
        free = (1 - self.c["overlong_share"]) * self.settings.limit
        for row, (accuracy, form, structure) in zip(group.rows, group.parts.T, strict=True):
            length = np.interp(row.length, band, [0, 1, 1, 0])
            late = max(row.length - free, 0) / (self.settings.limit - free)
            total = 0.9 * accuracy + 0.1 * form + structure
            rewards.append(total + self.c["length_weight"] * (length - accuracy) - self.c["overlong_weight"] * late)
        return np.array(rewards)

    def compare(self, groups: list[Group]) -> None:
        if self.settings.method == "Supervised":
            lengths = np.array([row.length for row in rows_of(groups)], float)
            weights = lengths ** -self.c["length_power"]
            found = list((weights / ((weights * lengths).sum() / lengths.sum()))[:, None])
        else:
            key = self.c["advantage_key"]
            found = advantages(
                self.settings.method, self.c, [self.reward(group) for group in groups],
                [group.parts for group in groups], [getattr(group.prompt, key) for group in groups], self.moments,
            )  # fmt: skip
        for row, value in zip(rows_of(groups), np.concatenate(found), strict=True):
            row.advantage = float(value)

    def side(self, task: str, groups: list[Group]) -> float:
        """Which side of its band the entropy of a task is on."""
        rows = rows_of([group for group in groups if group.prompt.task == task])
        total = sum(row.entropy if self.c["entropy"] == "exact" else -float(row.sampled.sum()) for row in rows)
        mean, (low, high) = total / sum(row.length for row in rows), self.settings.tasks[task][1]
        return float(mean > high) - float(mean < low)

    def step(self, groups: list[Group], sides: dict[str, float]) -> None:
        """Take an optimizer step on the sum of the losses of all its tokens."""
        c, losses = self.c, []
        uncut = [row for row in rows_of(groups) if not (row.truncated and c["mask_truncated"])]
        counted = [row for row in rows_of([group for group in groups if group.kept]) if row in uncut]
        entropies: dict[str, list[Tensor]] = {task: [] for task in sides}
        tasks = chain.from_iterable([group.prompt.task] * len(group.rows) for group in groups)
        for row, task, found in zip(rows_of(groups), tasks, self.forward(groups, self.weights), strict=True):
            logprobs, entropy = found
            if row in uncut:
                entropies[task].append(entropy if c["entropy"] == "exact" else -logprobs)
            if row in counted:
                share = {
                    "token": 1 / sum(row.length for row in counted),
                    "completion": 1 / (len(counted) * row.length),
                    "constant": 1 / (len(counted) * self.settings.limit),
                }[c["mean"]]
                losses.append(share * self.losses(row, logprobs).sum())
        for task, values in entropies.items():
            if values:
                losses.append(c["entropy_coefficient"] * sides[task] * torch.cat(values).mean())
        learned = [self.weights[name] for name in self.learns]
        found = torch.autograd.grad(torch.stack(losses).sum(), learned, allow_unused=True)
        grads = [torch.zeros(()) if grad is None else grad for grad in found]
        size = float(torch.stack([grad.norm() for grad in grads]).norm())
        # torch adds this to the norm
        scale = 1.0 if self.settings.clip is None else min(1.0, self.settings.clip / (size + 1e-6))
        with torch.no_grad():
            for weight, grad in zip(learned, grads, strict=True):
                weight -= self.settings.lr * scale * grad
        self.steps += 1

    def losses(self, row: Row, p: Tensor) -> Tensor:
        """The loss of each token of a completion."""
        c, a = self.c, row.advantage
        if self.settings.method == "Supervised":
            return -a * p
        assert row.old is not None
        assert row.ref is not None
        low, high = 1 - c["clip_low"], 1 + c["clip_high"]
        gap, ratio = (p - row.old).mean(), torch.exp(p - row.old)
        if c["loss"] == "gspo":
            ratio = torch.exp(gap).expand(row.length)
        if c["loss"] == "gspo_token":
            ratio = torch.exp(gap.detach() + p - p.detach())
        if c["loss"] == "cispo":
            loss = -a * ratio.detach().clip(low, high) * p
        elif c["loss"] == "sapo":
            tau = c["tau_positive"] if a > 0 else c["tau_negative"]
            loss = -a * 4 / tau / (1 + torch.exp(-tau * (ratio - 1)))
        else:
            loss = -torch.minimum(ratio * a, ratio.clip(low, high) * a)
            if c["dual_clip"] and a < 0:
                loss = torch.minimum(loss, torch.full_like(loss, -c["dual_clip"] * a))
        if c["importance_cap"] and self.settings.recompute:
            loss = loss * torch.exp(row.old - row.sampled).clip(max=c["importance_cap"])
        x = p - row.ref
        return loss + c["kl_coefficient"] * {"k1": x, "k2": x**2 / 2, "k3": torch.exp(-x) - 1 + x}[c["kl_estimator"]]

    def forward(self, groups: list[Group], weights: dict[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Log-probability and entropy of each token of each completion."""
        plain = {name: weight for name, weight in weights.items() if name[-2:] not in (".A", ".B")}
        for name in plain:
            if f"{name}.A" in weights:
                plain[name] = plain[name] + self.settings.scale * weights[f"{name}.B"] @ weights[f"{name}.A"]
        batch, starts = self.inputs.batch(groups)
        logits = functional_call(self.model, plain, (), batch).logits.log_softmax(-1)
        found = []
        for row, own, start in zip(rows_of(groups), logits, starts, strict=True):
            own = own[start - 1 : start - 1 + row.length]
            found.append((own.gather(-1, row.tokens[:, None])[:, 0], -(own.exp() * own).sum(-1)))
        return found


class Inputs:
    """Rows of prompt and completion, as Hugging Face's tokenizer and image processor make them.

    Args:
        folder: the policy.
    """

    def __init__(self, folder: str) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.images = Qwen2VLImageProcessorPil.from_pretrained(folder)
        self.template = (Path(folder) / "chat_template.jinja").read_text()

    @cached_property
    def pad(self) -> int:
        return int(self.tokenizer.convert_tokens_to_ids("<|image_pad|>"))

    def batch(self, groups: list[Group]) -> tuple[dict[str, Any], list[int]]:
        """The rows with zeros behind them, which causal attention never reaches, and where each completion starts."""
        rows, starts, pixels, grids = [], [], [], []
        for group in groups:
            asked, seen = self.prompt(group.prompt)
            for row in group.rows:
                rows.append(torch.cat([asked, row.tokens]))
                starts.append(len(asked))
                pixels += [seen["pixel_values"]] if seen else []
                grids += [seen["image_grid_thw"]] if seen else []
        longest = max(map(len, rows))
        ids = torch.stack([pad(row, (0, longest - len(row))) for row in rows])
        inputs = {"input_ids": ids, "mm_token_type_ids": (ids == self.pad).long(), "use_cache": False}
        if pixels:
            inputs |= {"pixel_values": torch.cat(pixels).double(), "image_grid_thw": torch.cat(grids)}
        return inputs, starts

    def prompt(self, prompt: Any) -> tuple[Tensor, Any]:
        text = self.tokenizer.apply_chat_template(
            prompt.messages, chat_template=self.template, tokenize=False, add_generation_prompt=True
        )
        seen = self.images(images=prompt.images, return_tensors="pt") if prompt.images else None
        for grid in seen["image_grid_thw"] if seen else []:
            text = text.replace("<|image_pad|>", "<|place|>" * (int(grid.prod()) // self.images.merge_size**2), 1)
        text = text.replace("<|place|>", "<|image_pad|>")
        return self.tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"][0], seen


def rows_of(groups: list[Group]) -> list[Row]:
    return [row for group in groups for row in group.rows]
