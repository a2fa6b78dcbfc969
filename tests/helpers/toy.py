"""A tiny module with the real module's public handles, for tests of callbacks on a real trainer.

``python tests/helpers/toy.py FOLDER ...`` trains it once in each folder, and waits to be interrupted.
"""

import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, ProgressBar
from PIL import Image
from torch import Tensor

from lit_g2rpo.experience import Completion, Evaluated, Experience, Prompt, RolloutTable
from lit_g2rpo.hardware.collectives import Ranks
from lit_g2rpo.loggers import TensorBoard
from lit_g2rpo.objectives.objective import Objective
from lit_g2rpo.objectives.shaping import EntropyBand, LengthBand
from lit_g2rpo.rewards import RewardResult
from lit_g2rpo.rewards.config import DEFAULT
from lit_g2rpo.rewards.running.judge import JudgeConfig
from lit_g2rpo.rollout.config import EvaluationConfig, RolloutConfig
from lit_g2rpo.tasks import Task
from lit_g2rpo.training.curves import CurvesModule
from lit_g2rpo.training.run import RunHandles

MICROBATCHES = 4
GROUP = 2


class ToyTokenizer:
    """Spell token ``n`` as ``<n>``."""

    def decode(self, token_ids: list[int]) -> str:
        return "".join(f"<{token}>" for token in token_ids)


class ToyLoader:
    """Repeat each rollout number once per micro-batch, and resume from a saved position."""

    def __init__(self, rollouts: int = 1000) -> None:
        self.size = rollouts * MICROBATCHES
        self.position = 0

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[tuple[int, int]]:
        self.position %= self.size
        while self.position < self.size:
            self.position += 1
            yield divmod(self.position - 1, MICROBATCHES)

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position = state["position"]


def prompt(name: str, task: str, images: int = 1) -> Prompt:
    content = [{"type": "image"}] * images + [{"type": "text", "text": f"What is <{name}>?"}]
    return Prompt(
        id=name,
        task=task,
        problem_type="OCR",
        messages=[{"role": "user", "content": content}],
        images=[Image.new("RGB", (40, 20), (number * 50, 0, 0)) for number in range(images)],
        sample={},
    )


class ToyModule(CurvesModule):
    """A linear policy whose rollouts and metrics are computed from their number.

    Args:
        entropy: entropy of task ``a`` in a rollout.
        length: mean completion length in a rollout.
        validation: ``val/accuracy`` after a rollout.
    """

    if TYPE_CHECKING:
        # torch's own returns Any for every name, which would hide renamed members from type checkers
        __getattr__: None  # type: ignore[misc, assignment]

    def __init__(
        self,
        entropy: Callable[[int], float] = lambda rollout: 0.4,
        length: Callable[[int], float] = lambda rollout: 30.0,
        validation: Callable[[int], float] = lambda rollout: rollout / 100,
        images: int = 1,
    ) -> None:
        super().__init__()
        self.policy = torch.nn.Linear(3, 1, bias=False)
        torch.nn.init.constant_(self.policy.weight, 0.5)
        self.tokenizer, self.opened = ToyTokenizer(), ""
        self.rollout, self.reward, self.evaluation = RolloutConfig(), DEFAULT, EvaluationConfig()
        self.judge: JudgeConfig | None = None
        self.max_tokens = 8
        self.entropy, self.length, self.validation, self.images = entropy, length, validation, images
        self.tasks = {
            "a": Task("a", length=LengthBand(10, 20, 40, 60), entropy=EntropyBand(0.2, 0.6)),
            "b": Task("b", length=LengthBand(10, 20, 40, 60)),
        }
        self.objective = Objective(entropy_coefficient=0.02)
        self.experience: Experience | None = None
        self._next_microbatch = 0
        self.validation_history: list[dict[str, float]] = []
        self.validation_sizes = {"a": 3, "b": 4}
        self.evaluated: Evaluated | None = None
        self.policy_path = "toy"
        self.bands: list[tuple[LengthBand | None, ...]] = []

    def prepare_prompt(self, prompt: Prompt) -> None:
        """Encode nothing."""

    @property
    def ranks(self) -> Ranks:
        return Ranks(self.trainer)

    @property
    def microbatches_per_rollout(self) -> int:
        return MICROBATCHES

    @property
    def steps_per_rollout(self) -> int:
        return MICROBATCHES // self.trainer.accumulate_grad_batches

    def finish_rollout(self) -> None:
        if self.point and self._next_microbatch == MICROBATCHES:
            self.write_point()

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.finish_rollout()

    @property
    def learning_rate_renewed(self) -> bool:
        return False

    def describe(self) -> dict[str, str]:
        return {"policy": "toy (4 parameters)", "tasks": "a, b", "updates": f"{self.steps_per_rollout} per rollout"}

    def collect(self) -> Experience:
        prompts = [prompt(f"{self.rollout_index}-a", "a", self.images), prompt(f"{self.rollout_index}-b", "b", 0)]
        size = len(prompts) * GROUP
        texts = [f"<thinking>``` {row}</thinking><answer>{row}</answer>" for row in range(size)]
        tokens = torch.arange(5)
        self.bands.append(tuple(task.length for task in self.tasks.values()))
        self.rollout_index += 1
        return Experience(
            prompts=prompts,
            completions=[
                Completion(tokens, tokens * -0.1, tokens * 0.1, text, row == 1) for row, text in enumerate(texts)
            ],
            rewards=[RewardResult(0.5, 0.25 * row, 1.0, 0.0, {}, None, 0.0) for row in range(size)],
            old_logprobs=None,
            ref_logprobs=None,
            table=RolloutTable(
                rewards=(torch.arange(size) / size).view(-1, GROUP),
                lengths=torch.full((len(prompts), GROUP), len(tokens)),
                valid=torch.tensor([True] * (size - 1) + [False]).view(-1, GROUP),
                entropy_counts=torch.ones(len(prompts), GROUP, dtype=torch.bool),
                advantages=torch.linspace(-1, 1, size).view(-1, GROUP),
                task_ids=torch.arange(len(prompts)),
                problem_type_ids=torch.zeros(len(prompts), dtype=torch.long),
                entropy_direction=torch.zeros(len(self.tasks)),
            ),
        )

    def training_step(self, batch: tuple[int, int], batch_idx: int) -> Tensor:
        rollout, index = batch
        self._next_microbatch = index + 1
        if index == 0:
            self.experience = self.collect()
        if (index + 1) % self.trainer.accumulate_grad_batches == 0:
            metrics = {"rollout/reward": 0.5, "rollout/accuracy": 0.25, "rollout/length": 30.0}
            metrics |= {"rollout/entropy/a": self.entropy(self.rollout_index), "rollout/entropy/b": 9.0}
            metrics |= {"rollout/nll/a": 2 * self.entropy(self.rollout_index), "rollout/nll/b": 18.0}
            metrics |= {f"rollout/length/{task}": self.length(self.rollout_index) for task in self.tasks}
            # as in the real module, the metrics of a rollout come with its first optimizer step
            if index + 1 == self.trainer.accumulate_grad_batches:
                self.log_dict(metrics)
        x = torch.randn(8, 3, generator=torch.Generator().manual_seed(rollout * MICROBATCHES + index))
        loss: Tensor = self.policy(x).square().mean()
        self.log("train/loss", loss)
        return loss

    # callbacks receive rows, which Lightning's types do not allow
    def validation_step(self, batch: Any, batch_idx: int) -> list[dict[str, Any]]:  # type: ignore[override]
        if batch:
            prompts, rows = batch
            tokens, reward = torch.arange(5), self.validation(self.rollout_index)
            self.evaluated = Evaluated(
                prompts,
                rows,
                [Completion(tokens, tokens * -0.1, tokens * 0.1, f"to {one.id}", False) for one in prompts],
                [RewardResult(reward, reward, 1.0, 0.0, {}, None, 0.0) for _ in prompts],
            )
        return []

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return batch

    def on_validation_epoch_end(self) -> None:
        accuracy = self.validation(self.rollout_index)
        metrics = {"val/accuracy": accuracy, "val/accuracy/a": accuracy - 0.1, "val/accuracy/b": accuracy + 0.1}
        self.log_dict(metrics)
        self.write_point()
        self.validation_history.append(metrics | {"rollout": float(self.rollout_index)})

    def test_step(self, batch: Any, batch_idx: int) -> list[dict[str, Any]]:  # type: ignore[override]
        rows: list[dict[str, Any]] = batch
        return rows

    predict_step = test_step

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.01)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["toy"] = {"rollout_index": self.rollout_index, "validation_history": list(self.validation_history)}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.rollout_index = checkpoint["toy"]["rollout_index"]
        self.validation_history = checkpoint["toy"]["validation_history"]


if TYPE_CHECKING:

    def _is_a_double(module: ToyModule) -> RunHandles:
        return module


def fit(
    module: ToyModule,
    folder: Path,
    callbacks: list[L.Callback],
    rollouts: int = 6,
    validate_every: int = 2,
    checkpoint: str | None = None,
    **options: Any,
) -> L.Trainer:
    """Train a toy module for a number of rollouts, two optimizer steps each."""
    loader, validation = options.pop("loader", None) or ToyLoader(), options.pop("validation", [0])
    trainer = L.Trainer(
        accelerator="cpu",
        devices=options.pop("devices", 1),
        logger=options.pop("logger", TensorBoard(str(folder), name="toy", version=0)),
        default_root_dir=folder,
        callbacks=callbacks,
        max_epochs=-1,
        max_steps=options.pop("max_steps", 2 * rollouts),
        accumulate_grad_batches=2,
        val_check_interval=validate_every * MICROBATCHES,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=options.pop("num_sanity_val_steps", -1),
        log_every_n_steps=1,
        enable_model_summary=False,
        enable_progress_bar=any(isinstance(callback, ProgressBar) for callback in callbacks),
        enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
        **options,
    )
    trainer.fit(module, loader, validation or None, ckpt_path=checkpoint)
    return trainer


def main(folder: str) -> None:
    """Train, and wait for a line of input at the start of the third rollout, so that signals arrive there."""
    from lit_g2rpo.callbacks import GracefulInterrupt, RolloutCheckpoint

    # restore handlers, since a signal ignored by the parent of the tests is ignored here too
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

    class Wait(L.Callback):
        def on_train_batch_start(self, trainer: L.Trainer, module: Any, batch: Any, batch_idx: int) -> None:
            if batch == (2, 0):
                print("waiting", flush=True)
                sys.stdin.readline()

        def on_validation_start(self, trainer: L.Trainer, module: Any) -> None:
            print("validation", flush=True)

    callbacks = [Wait(), GracefulInterrupt(), RolloutCheckpoint(every_rollouts=50)]
    fit(ToyModule(), Path(folder), callbacks, rollouts=1000, validate_every=4)
    print("left", flush=True)


if __name__ == "__main__":
    for folder in sys.argv[1:]:
        main(folder)
