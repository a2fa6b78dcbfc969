"""The peer's side of the comparison: TRL's ``GRPOTrainer``, without a server, with its fastest settings."""

from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from ours import LEARNING_RATE, LORA_ALPHA, LORA_RANK, WEIGHT_DECAY, Work, distance, learned, reward
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    PrinterCallback,
    Qwen3VLForConditionalGeneration,
    TrainerCallback,
)
from trl import GRPOConfig, GRPOTrainer
from turns import Phases

from lit_g2rpo.experience import Prompt
from lit_g2rpo.policy.families.qwen3_vl import Qwen3VL
from lit_g2rpo.policy.loading import freeze
from lit_g2rpo.policy.processor import ImageOnlyQwen3VLProcessor


class _ForcedEnd(LogitsProcessor):
    """Forbid the end token before a row's length and force it there, by writing one column per step."""

    def __init__(self, lengths: torch.Tensor, eos: int, prompt: int) -> None:
        self.last, self.eos, self.prompt = lengths - 1, eos, prompt

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        step = input_ids.shape[1] - self.prompt
        # e^10000 instead of infinity, whose softmax is NaN.
        scores[:, self.eos] = torch.where(self.last == step, 1e4, -torch.inf)
        return scores


class _Watch(TrainerCallback):
    def __init__(self, side: "Peer", pause: Callable[[], None]) -> None:
        self.side, self.pause = side, pause

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.side.updates = state.global_step
        if state.global_step % self.side.work.updates == 0:
            self.pause()


class Peer:
    """A run of TRL's trainer.

    It gets decoded images, as our side does: from a dataset, TRL would decode each image once per completion.

    Args:
        folder: the policy.
        prompts: prompts of every rollout.
        lengths: tokens of each completion, by id of its prompt.
        work: the work of a step.
        rollouts: rollouts of the run.
        rows: completions per forward and backward.
        device: ``cpu`` or ``cuda``.
        dtype: dtype of the weights.
        options: more settings of TRL.
    """

    def __init__(
        self,
        folder: Path,
        prompts: list[Prompt],
        lengths: dict[str, list[int]],
        work: Work,
        rollouts: int,
        *,
        rows: int = 64,
        device: str = "cpu",
        dtype: str = "float32",
        **options: Any,
    ) -> None:
        self.phases, self.lengths, self.updates = Phases(device == "cuda"), [], 0
        self.work, self._forced, self._folder, self._device = work, lengths, folder, device
        self._counters: Counter[str] = Counter()
        self._prompts, self._rollouts, self._pass, self._dtype = prompts, rollouts, "train", getattr(torch, dtype)
        completions = len(prompts) * work.group_size
        self.settings = {
            "per_device_train_batch_size": rows,
            "gradient_accumulation_steps": completions // work.updates // rows,
            "steps_per_generation": completions // rows,
            "num_generations": work.group_size,
            "max_completion_length": work.max_tokens,
            "beta": work.kl,
            "use_bias_correction_kl": False,
            "gradient_checkpointing": False,
            "optim": "adamw_torch",
            "use_vllm": False,
        } | options

    def run(self, pause: Callable[[], None]) -> None:
        """Train.

        Args:
            pause: called after every rollout's last update.
        """
        processor = self._processor()
        model = Qwen3VLForConditionalGeneration.from_pretrained(self._folder, dtype=self._dtype)
        if not self.work.tower:
            freeze(model, Qwen3VL(), ["vision", "merger"])
        trainer = GRPOTrainer(
            model=model,
            reward_funcs=lambda completion_ids, **_: [reward(list(ids)) for ids in completion_ids],
            args=GRPOConfig(
                output_dir=str(self._folder / "peer"),
                max_steps=self._rollouts * self.work.updates,
                learning_rate=LEARNING_RATE,
                weight_decay=WEIGHT_DECAY,
                lr_scheduler_type="constant",
                max_grad_norm=1.0,
                epsilon_high=0.3,
                use_cpu=self._device == "cpu",
                bf16=False,
                shuffle_dataset=False,
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
                dataloader_pin_memory=False,
                **self.settings,
            ),
            train_dataset=self._dataset(),
            processing_class=processor,
            peft_config=self._adapters(),
            callbacks=[_Watch(self, pause)],
        )
        trainer.remove_callback(PrinterCallback)
        self.model = trainer.model
        self._time(trainer)
        self._count(trainer)
        self._start = learned(self.model)
        trainer.train()

    def _processor(self) -> Any:
        side = self

        class Processor(ImageOnlyQwen3VLProcessor):
            def __call__(self, images: Any = None, text: Any = None, **options: Any) -> Any:
                nested = images or []
                side._counters["images_preprocessed"] += sum(
                    len(row) if isinstance(row, list) else row is not None for row in nested
                )
                with side.phases.phase("preprocess"):
                    return super().__call__(images=images, text=text, **options)

        return Processor.from_pretrained(self._folder)

    def _dataset(self) -> Dataset:
        prompts = self._prompts
        numbers = [number for _ in range(self._rollouts) for number in range(len(prompts))]

        def row(batch: dict[str, list[int]]) -> dict[str, list[Any]]:
            chosen = [prompts[number] for number in batch["number"]]
            texts = [prompt.messages[0]["content"][-1]["text"] for prompt in chosen]
            out = {"prompt": [[{"role": "user", "content": text}] for text in texts], "id": [p.id for p in chosen]}
            return out | ({"images": [p.images for p in chosen]} if chosen[0].images else {})

        return Dataset.from_dict({"number": numbers}).with_transform(row)

    def _adapters(self) -> Any:
        if not self.work.lora:
            return None
        import peft

        targets = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
        return peft.LoraConfig(r=LORA_RANK, lora_alpha=LORA_ALPHA, lora_dropout=0.0, target_modules=targets)

    def _time(self, trainer: GRPOTrainer) -> None:
        phases, generate, logprobs = self.phases, trainer.model.generate, trainer._get_per_token_logps_and_entropies
        score, optimizer = trainer._generate_and_score_completions, trainer.create_optimizer
        eos = trainer._tokenizer.eos_token_id

        def rows(inputs: list[dict[str, Any]]) -> Any:
            # A group's rows are adjacent, so the number of earlier rows with the same id is the completion's index.
            seen: Counter[str] = Counter()
            self._row_lengths = []
            for entry in inputs:
                self._row_lengths.append(self._forced[entry["id"]][seen[entry["id"]]])
                seen[entry["id"]] += 1
            out = score(inputs)
            found = iter(out["completion_mask"].sum(1).tolist())
            self.lengths.append({name: [next(found) for _ in range(count)] for name, count in seen.items()})
            return out

        def forced(**inputs: Any) -> Any:
            lengths = torch.tensor(self._row_lengths, device=inputs["input_ids"].device)
            lengths = torch.where(lengths < self.work.max_tokens, lengths, self.work.max_tokens + 1)
            end = _ForcedEnd(lengths, eos, inputs["input_ids"].shape[1])
            with phases.phase("rollout"), self._as("rollout"):
                return generate(**inputs, logits_processor=LogitsProcessorList([end]))

        def stats(*args: Any, **options: Any) -> Any:
            self._counters["passes"] += 1
            with phases.phase("forward" if torch.is_grad_enabled() else "logprobs"):
                return logprobs(*args, **options)

        def create(*args: Any, **options: Any) -> Any:
            made = optimizer(*args, **options)
            phases.wrap(made, "step", "optimizer")
            return made

        trainer._generate_and_score_completions, trainer.model.generate = rows, forced
        trainer._get_per_token_logps_and_entropies, trainer.create_optimizer = stats, create
        phases.wrap(trainer.accelerator, "backward", "backward")
        phases.wrap(trainer.accelerator, "clip_grad_norm_", "optimizer")

    @contextmanager
    def _as(self, name: str) -> Any:
        self._pass = name
        yield
        self._pass = "train"

    def _count(self, trainer: GRPOTrainer) -> None:
        base = trainer.model.get_base_model() if self.work.lora else trainer.model

        def images(_: Any, args: Any, options: Any) -> None:
            grid = options.get("grid_thw", args[1] if len(args) > 1 else None)
            self._counters["images_encoded"] += len(grid)

        def tokens(_: Any, args: Any, options: Any) -> None:
            rows, length = options["inputs_embeds"].shape[:2]
            if self._pass == "train":
                self._counters["train_tokens"] += rows * length
            elif length > 1:
                self._counters["prefill_tokens"] += rows * length
            else:
                self._counters["row_steps"] += rows

        base.model.visual.register_forward_pre_hook(images, with_kwargs=True)
        base.model.language_model.register_forward_pre_hook(tokens, with_kwargs=True)

    def counters(self) -> dict[str, int]:
        """Return the work since the start; ``train_tokens`` includes prompts, completions and padding."""
        return dict(self._counters)

    def moved(self) -> float:
        """Return the root mean square change of the weights since the start."""
        return distance(self._start, self.model)
