"""The policy: a Qwen3-VL model with its processor, and the one seam that training goes through."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lit_g2rpo.experience import Microbatch, Prompt
from lit_g2rpo.objectives.fields import TokenFields
from lit_g2rpo.policy.counters import Counters
from lit_g2rpo.policy.encoding import EncodedPrompt, blank_prompt, collate, encode
from lit_g2rpo.policy.token_stats import token_logprobs

TokenLoss = Callable[[Tensor, Tensor, TokenFields], tuple[Tensor, dict[str, Tensor]]]


class Policy(nn.Module):
    """A model that samples completions and is trained on them.

    Args:
        model: ``Qwen3VLForConditionalGeneration``, or a ``peft`` model around one.
        processor: its processor (chat template, tokenizer, images).
    """

    def __init__(self, model: Any, processor: Any) -> None:
        super().__init__()
        self.model = model
        self.processor = processor
        self.temperature = 1.0
        self.counters = Counters()
        vision = self.base.config.vision_config
        self._blank = encode(processor, self.base, blank_prompt(4 * vision.patch_size * vision.spatial_merge_size))

    @property
    def base(self) -> Any:
        """The Qwen3-VL model itself, inside its adapters if it has any."""
        return self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        device: torch.device = next(self.model.parameters()).device
        return device

    @property
    def empty(self) -> Tensor:
        """An empty tensor on the policy's device, of the type that losses are computed in."""
        weight = next(self.model.parameters())
        return torch.empty(0, device=weight.device, dtype=torch.promote_types(weight.dtype, torch.float32))

    @property
    def pad_token_id(self) -> int:
        """Id of the token that fills a batch."""
        return int(self.processor.tokenizer.pad_token_id)

    @property
    def eos_token_ids(self) -> list[int]:
        """Ids of the tokens that end a completion."""
        ids = self.base.generation_config.eos_token_id
        if ids is None:
            ids = self.processor.tokenizer.eos_token_id
        return list(ids) if isinstance(ids, list) else [int(ids)]

    @property
    def forbidden_token_ids(self) -> list[int]:
        """Ids that must never be sampled: a vision token in a completion would ask for an image that is not there."""
        names = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
        return [int(getattr(self.base.config, name)) for name in names]

    def encode(self, prompt: Prompt) -> EncodedPrompt:
        """Tokenize a prompt once; later calls for the same object return the same tensors.

        Args:
            prompt: the prompt.

        Returns:
            The encoded prompt, on the CPU.
        """
        if prompt.encoded is None:
            prompt.encoded = encode(self.processor, self.base, prompt)
            self.counters.images_preprocessed += len(prompt.images)
        encoded: EncodedPrompt = prompt.encoded
        return encoded

    def decode(self, token_ids: Tensor) -> str:
        """Turn completion tokens into text without special tokens.

        Args:
            token_ids: ``[T]`` long.

        Returns:
            The text.
        """
        return str(self.processor.tokenizer.decode(token_ids, skip_special_tokens=True))

    def token_stats(self, prompts: list[Prompt], completions: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Log-probability and exact entropy of every completion token, by the padded per-row forward.

        A batch without a row or without an image gets one blank row that is cut off again, so that every rank runs the
        same modules in every micro-batch and gradients of the vision tower exist everywhere (zero, not missing).

        Args:
            prompts: the prompt of each row, ``N`` of them.
            completions: completion tokens of each row, ``[T_i]`` long, each at least one token.

        Returns:
            Log-probabilities and entropies, nats, flat over the ``M = sum T_i`` tokens in row order.
        """
        rows = [self.encode(prompt) for prompt in prompts]
        if not any(row.pixel_values is not None for row in rows):
            rows, completions = [*rows, self._blank], [*completions, torch.tensor([self.pad_token_id])]
        count = sum(len(tokens) for tokens in completions[: len(prompts)])
        batch = collate(rows, completions, self.pad_token_id, side="right")
        at = [
            (i, len(row.input_ids) - 1 + t)
            for i, (row, tokens) in enumerate(zip(rows, completions, strict=True))
            for t in range(len(tokens))
        ]
        row_index, token_index = torch.tensor(at).T.to(self.device)
        batch = {name: tensor.to(self.device) for name, tensor in batch.items()}
        positions, _ = self.base.model.get_rope_index(
            batch["input_ids"], batch["mm_token_type_ids"], batch["image_grid_thw"], None, batch["attention_mask"]
        )
        hidden = self.base.model(**batch, position_ids=positions, use_cache=False).last_hidden_state
        logprobs, entropy = token_logprobs(
            hidden[row_index, token_index],
            self.base.lm_head.weight,
            batch["input_ids"][row_index, token_index + 1],
            temperature=self.temperature,
        )
        # A slice keeps the blank row in the graph: its gradient is zero, not missing.
        return logprobs[:count], entropy[:count]

    def loss(self, microbatch: Microbatch, token_loss: TokenLoss) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of one micro-batch and its diagnostics.

        Args:
            microbatch: rows and loss fields.
            token_loss: elementwise loss over tokens.

        Returns:
            The loss (a scalar that already holds the normaliser), and elementwise diagnostics ``[M]`` without gradient,
            among them ``nll``, ``entropy`` and ``loss``.
        """
        logprobs, entropy = self.token_stats(microbatch.prompts, microbatch.token_ids)
        fields = microbatch.fields
        loss, metrics = token_loss(logprobs, entropy, fields)
        metrics |= {"nll": -logprobs, "entropy": entropy, "loss": loss}
        return loss.sum(), {name: value.detach() for name, value in metrics.items()}

    @contextmanager
    def reference(self) -> Iterator[None]:
        """Switch the adapters off, so that the policy is its own reference."""
        with self.model.disable_adapter():
            yield
