"""Several rollouts of every objective end at the weights that an independent replay of them reaches, in float64."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from helpers.build import module, trainer
from helpers.paths import CONFIGS, WEIGHTS
from helpers.prompts import make_prompt
from helpers.replay import Group, Replay, Row, Settings, outcome

import lit_g2rpo.rewards.running.scorer
from lit_g2rpo import objectives
from lit_g2rpo.data.datamodule import PromptData
from lit_g2rpo.experience import Completion, Prompt
from lit_g2rpo.mini.policy import initial_policy, mini_config
from lit_g2rpo.objectives.advantages import centered
from lit_g2rpo.objectives.kl import kl_penalty
from lit_g2rpo.objectives.losses import _clipped
from lit_g2rpo.objectives.shaping import EntropyBand, LengthBand
from lit_g2rpo.policy.config import LoraConfig
from lit_g2rpo.policy.processor import ImageOnlyQwen3VLProcessor
from lit_g2rpo.rewards import RewardResult
from lit_g2rpo.rollout.engine import announce
from lit_g2rpo.tasks import Task

pytestmark = pytest.mark.usefixtures("exact_norms", "scores")

FRAGMENTS = sorted(path.stem for path in (CONFIGS / "objective").glob("*.yaml"))
LIMIT, PROMPTS, GROUP, ROLLOUTS, UPDATES = 6, 6, 4, 2, 2
TASKS = {"long": ((1.0, 3.0, 6.0, 9.0), (0.2, 0.6)), "short": ((0.0, 1.0, 3.0, 5.0), (7.0, 8.0))}
"""Thresholds of length, and of entropy: a random policy is above those of one task and below those of the other."""
TYPES = ("OCR", "math", "OCR", "counting")

MODES: dict[str, Any] = {
    "adapters": {
        "policy": {"lora": LoraConfig(rank=2, alpha=6, targets=["q_proj", "down_proj"])},
        "objective": {"kl_coefficient": 0.1, "importance_cap": 1.2},
        "rollout": {"old_logprobs": "recompute"},
        "epochs": 2,
    },
    "frozen": {
        "policy": {"freeze": ["vision", "merger"], "packing": False},
        "objective": {"filtering": "refill", "refill_waves": 2},
        "trainer": {"gradient_clip_val": 0.5},
    },
}


class Rows:
    """Rows of two tasks and three answer formats, with and without images."""

    def __len__(self) -> int:
        return 200

    def __getitem__(self, index: int) -> Prompt:
        prompt = make_prompt(f"row {index}", index % 2, 1 + index % 3, self.task_names()[index])
        prompt.problem_type = TYPES[index // 2 % len(TYPES)]
        prompt.sample["hopeless"] = index % 3 == 0
        prompt.demonstration = "1" * (1 + index % 4)
        prompt.images = [image.resize((32, 16)) for image in prompt.images]
        return prompt

    def task_names(self) -> list[str]:
        return [*TASKS] * (len(self) // len(TASKS))


class Data(PromptData):
    def default_tasks(self) -> dict[str, Task]:
        return {n: Task(n, length=LengthBand(*length), entropy=EntropyBand(*h)) for n, (length, h) in TASKS.items()}

    def train_dataset(self) -> Rows:
        return Rows()

    def val_dataset(self) -> None:
        return None


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random policy of two layers that often ends a completion."""
    path = tmp_path_factory.mktemp("policy")
    processor = ImageOnlyQwen3VLProcessor.from_pretrained(WEIGHTS)
    config = mini_config(processor.tokenizer)
    text, vision = config.text_config, config.vision_config
    text.hidden_size = vision.out_hidden_size = vision.hidden_size = 32
    text.intermediate_size = vision.intermediate_size = 48
    text.num_hidden_layers = 2
    text.num_attention_heads, text.num_key_value_heads, text.head_dim = 2, 1, 16
    text.rope_parameters["mrope_section"] = [4, 2, 2]
    policy = initial_policy(config, seed=3)
    policy.generation_config.eos_token_id = list(range(0, len(processor.tokenizer), 6))
    policy.save_pretrained(path)
    processor.save_pretrained(path)
    return str(path)


@pytest.fixture
def scores(monkeypatch: pytest.MonkeyPatch) -> None:
    def score(text: str, sample: dict[str, Any], *_: Any) -> RewardResult:
        accuracy, form, structure = outcome(text, sample)
        total = 0.9 * accuracy + 0.1 * form + structure
        return RewardResult(total, accuracy, form, structure, {}, None, 0.0)

    monkeypatch.setattr(lit_g2rpo.rewards.running.scorer, "score", score)


def record(run: Any) -> list[list[list[Group]]]:
    """Keep the draws of each rollout, from an engine whose log-probabilities are a little off."""
    rollouts: list[list[list[Group]]] = []
    generate = run.engine.generate

    def recorded(prompts: list[Prompt], group_size: int, sampling: Any, finished: Any = None) -> list[Completion]:
        completions = generate(prompts, group_size, sampling)
        for one in completions:
            one.logprobs = one.logprobs + 0.3 * torch.sin(one.token_ids.double())
        announce(completions, group_size, finished)
        rows = [Row(c.token_ids, c.logprobs, c.text, c.truncated) for c in completions]
        groups = [Group(p, rows[i * group_size : (i + 1) * group_size]) for i, p in enumerate(prompts)]
        if sampling.wave == 0:
            rollouts.append([])
        rollouts[-1].append(groups)
        return completions

    run.engine.generate = recorded
    return rollouts


def weights_of(run: Any) -> dict[str, torch.Tensor]:
    """The weights by Hugging Face's names, adapters as ``<name>.A`` and ``<name>.B``."""
    return {
        name.replace(".base_layer", "").replace("lora_A.default.weight", "weight.A").replace(
            "lora_B.default.weight", "weight.B"
        ): weight
        for name, weight in run.policy.base.named_parameters()
    }  # fmt: skip


EXTRAS: dict[str, dict[str, Any]] = {
    "cispo": {"kl_estimator": "k2", "entropy_coefficient": 0.1, "entropy": "sampled"},
    "dapo": {"mask_truncated": True},
    "g2rpo": {"scope": "group_unit_rms", "advantage_key": "task"},
    "gdpo": {"mean": "completion", "entropy_coefficient": 0.1, "mask_truncated": True},
    "gopo": {"loss": "gspo_token", "mean": "constant"},
    "grpo": {"kl_estimator": "k1", "length_weight": 0.2},
    "rloo": {"mean": "completion"},
}
"""Coefficients besides those of the fragment, so that each appears somewhere."""


def replayed(folder: str, tmp_path: Path, method: str, coefficients: dict[str, Any], mode: dict[str, Any]) -> Replay:
    """Train, replay, and compare all weights."""
    # the engine's log-probabilities are a little off on purpose
    rollout = {"prompts": PROMPTS, "group_size": GROUP, "gap_checks": 0} | mode.get("rollout", {})
    if method == "Supervised":
        rollout |= {"engine": "demonstrations", "group_size": 1}
    else:
        coefficients = coefficients | mode.get("objective", {})
    policy, epochs = mode.get("policy", {}), mode.get("epochs", 1)
    options = {"gradient_clip_val": None} | mode.get("trainer", {})
    adapters = policy.get("lora")
    settings = Settings(
        method, coefficients, UPDATES, epochs, LIMIT, 0.3, "old_logprobs" in rollout, options["gradient_clip_val"],
        adapters.alpha / adapters.rank if adapters else 0.0, TASKS,
    )  # fmt: skip
    update = {"microbatches": 2 * UPDATES, "epochs": epochs}
    run = module(folder, getattr(objectives, method)(**coefficients), rollout=rollout, update=update, **policy)
    run.optimizer = partial(torch.optim.SGD, lr=settings.lr)
    run.configure_model()
    for one in filter(None, (run.policy, run.reference)):
        one.double()
    weights = weights_of(run)
    torch.manual_seed(1)
    for name, weight in weights.items():
        if name.endswith(".B"):  # adapters start at zero
            torch.nn.init.normal_(weight, std=0.05)
    start = {name: weight.detach().clone() for name, weight in weights.items()}
    learns = [name for name, weight in weights.items() if weight.requires_grad]
    rollouts, steps = record(run), ROLLOUTS * UPDATES * epochs
    trainer(tmp_path, steps, **options).fit(run, Data(max_completion_tokens=LIMIT, rollouts_per_epoch=2))

    replay = Replay(folder, start, learns, settings)
    for draws in rollouts:
        replay.rollout(draws)
    assert replay.steps == steps
    assert all(torch.equal(weight, start[name]) for name, weight in weights.items() if name not in learns)
    moved, missed = distance(weights, start), distance(weights, replay.weights)
    assert moved > 0.01
    assert missed < 1e-10 * moved, f"weights differ by {missed} after moving by {moved}"
    return replay


def distance(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    return float(torch.stack([(one[name] - other[name]).detach().norm() for name in one]).norm())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", FRAGMENTS)
def test_every_objective(name: str, mode: str, folder: str, tmp_path: Path) -> None:
    fragment = yaml.safe_load((CONFIGS / "objective" / f"{name}.yaml").read_text())
    method = fragment["class_path"].rpartition(".")[2]
    replay = replayed(folder, tmp_path, method, fragment["init_args"] | EXTRAS.get(name, {}), MODES[mode])
    if method != "Supervised":
        assert (replay.refilled if replay.c["filtering"] == "refill" else replay.dropped) > 0


def _equal_clips(log_ratio: Any, advantages: Any, low: float, high: float, dual_clip: Any) -> Any:
    return _clipped(log_ratio, advantages, low, low, dual_clip)


def _other_kl(logprobs: Any, ref_logprobs: Any, *, estimator: str) -> Any:
    return kl_penalty(logprobs, ref_logprobs, estimator="k2")


@pytest.mark.parametrize(
    ("mode", "where", "other"),
    [
        ("plain", "lit_g2rpo.objectives.GRPO.estimator", staticmethod(centered)),
        ("plain", "lit_g2rpo.objectives.losses._clipped", _equal_clips),
        ("adapters", "lit_g2rpo.objectives.objective.kl_penalty", _other_kl),
        ("adapters", "lit_g2rpo.training.table.truncated_importance", lambda old, engine, cap: torch.ones_like(old)),
        (
            "adapters",
            "lit_g2rpo.training.logprobs.trained_rows",
            lambda table, objective: torch.zeros_like(table.valid),
        ),
    ],
)
def test_a_changed_objective_is_noticed(
    mode: str, where: str, other: Any, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(where, other)
    with pytest.raises(AssertionError, match="weights differ"):
        replayed(folder, tmp_path, "GRPO", {}, MODES.get(mode, {}))
