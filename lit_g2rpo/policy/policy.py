"""The policy: a Qwen3-VL model with its processor, and the one seam that training goes through."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lit_g2rpo.experience import Microbatch, Prompt
from lit_g2rpo.policy.config import Shapes
from lit_g2rpo.policy.counters import Counters
from lit_g2rpo.policy.encoding import EncodedPrompt, blank_prompt, blank_text, encode
from lit_g2rpo.policy.fixed_shapes.forward import static_loss, static_token_stats
from lit_g2rpo.policy.fixed_shapes.vision import host_features
from lit_g2rpo.policy.forward.attention import Kind
from lit_g2rpo.policy.forward.packing import packed_states
from lit_g2rpo.policy.forward.padded import padded_states
from lit_g2rpo.policy.forward.vision import FeatureStore, keep_features
from lit_g2rpo.policy.head.token_stats import TokenLoss, head_loss, token_logprobs
from lit_g2rpo.rewards.answers.parse import unwrap

COMPILED = ("xla", "neuron")
"""Kinds of devices that compile for each shape."""


class Policy(nn.Module):
    """A model that samples completions and is trained on them.

    Args:
        model: ``Qwen3VLForConditionalGeneration``, or a ``peft`` model around one.
        processor: its processor (chat template, tokenizer, images).
        packing: learn from packed groups instead of padded rows; the model is prepared for it.
        packed_attention: attention of packed groups; None for ``merged`` on the CPU and ``two_part`` elsewhere.
        features_on_device_mib: most memory that kept image features take on the device, MiB; None for no limit.
        shapes: ``exact`` or ``static``; None for ``static`` on devices that compile for each shape.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        *,
        packing: bool = False,
        packed_attention: Kind | None = None,
        features_on_device_mib: float | None = None,
        shapes: Shapes | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.processor = processor
        self.packing, self._attention, self._shapes = packing, packed_attention, shapes
        self.temperature = 1.0
        self.counters = Counters()
        self.features = FeatureStore(math.inf if features_on_device_mib is None else features_on_device_mib * 2**20)
        # Decided here: a reference is frozen later, but its tower differs from one that has learned since.
        self.tower_learns = any(parameter.requires_grad for parameter in self.base.model.visual.parameters())
        vision = self.base.config.vision_config
        # A trainer builds models in the context of its device, but prompts lie on the CPU.
        with torch.device("cpu"):
            self.blank = encode(processor, self.base, blank_prompt(4 * vision.patch_size * vision.spatial_merge_size))
            self.blank_text = blank_text(self.pad_token_id)

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
    def attention(self) -> Kind:
        """Attention of packed groups."""
        return self._attention or ("merged" if self.device.type == "cpu" else "two_part")

    @property
    def static(self) -> bool:
        """True if everything runs in few fixed shapes."""
        return (self._shapes or ("static" if self.device.type in COMPILED else "exact")) == "static"

    @property
    def empty(self) -> Tensor:
        """An empty tensor where loss fields lie, of the type that losses are computed in.

        That is the policy's device, and the CPU where shapes are fixed: tiles are cut there before they are sent.
        """
        dtype = torch.promote_types(next(self.model.parameters()).dtype, torch.float32)
        return torch.empty(0, device="cpu" if self.static else self.device, dtype=dtype)

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

        Returns:
            The encoded prompt, on the CPU.
        """
        if prompt.encoded is None:
            prompt.encoded = encode(self.processor, self.base, prompt)
            self.counters.images_preprocessed += len(prompt.images)
        encoded: EncodedPrompt = prompt.encoded
        return encoded

    def answer_length(self, prompt: Prompt) -> int:
        """Count the tokens of a prompt's reference answer, its tags left out.

        Returns:
            The number of tokens; 0 if it has no answer.
        """
        answer = unwrap(str(prompt.sample.get("answer") or ""))
        return len(self.processor.tokenizer(answer, add_special_tokens=False)["input_ids"])

    def decode(self, token_ids: Tensor) -> str:
        """Turn completion tokens into text without special tokens.

        Args:
            token_ids: ``[T]`` long.

        Returns:
            The text.
        """
        return str(self.processor.tokenizer.decode(token_ids, skip_special_tokens=True))

    def prepare_features(self, prompts: list[Prompt]) -> None:
        """Tokenize prompts, and encode their images where the vision tower does not learn, before training needs them.

        Training passes then never run the tower, so that all ranks run the same modules. Where weights are sharded,
        call this where they are gathered.

        """
        rows = [self.encode(prompt) for prompt in prompts]
        if self.static and not self.tower_learns:
            host_features(self, [row for row in rows if row.pixel_values is not None])
        elif not self.tower_learns:
            keep_features(self, rows)

    def hidden_states(self, prompts: list[Prompt], completions: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Hidden states that predict every completion token.

        Rows of one prompt object share its tokens and images. A batch without a row gets a dummy that is cut off
        again, and so does one without an image where the vision tower learns: every rank runs the same modules in
        every micro-batch, and gradients exist everywhere (zero, not missing).

        Args:
            prompts: the prompt of each row, ``N`` of them.
            completions: completion tokens of each row, ``[T_i]`` long, each at least one token.

        Returns:
            Hidden states ``[M, H]`` and the tokens they predict ``[M]``, over the ``M = sum T_i`` tokens in row order.
        """
        rows = [self.encode(prompt) for prompt in prompts]
        states = packed_states if self.packing else padded_states
        targets = torch.cat([torch.empty(0, dtype=torch.long), *completions])
        return states(self, rows, completions), targets.to(self.device)

    def token_stats(self, prompts: list[Prompt], completions: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Log-probability and exact entropy of every completion token, without dropout.

        Args:
            prompts: the prompt of each row, ``N`` of them.
            completions: completion tokens of each row, ``[T_i]`` long, each at least one token.

        Returns:
            Log-probabilities and entropies, nats, flat over the ``M = sum T_i`` tokens in row order.
        """
        # FSDP has moved them to the device, but rows are laid out on the host
        completions = [tokens.cpu() for tokens in completions]
        training = self.training
        self.eval()
        try:
            if self.static:
                return static_token_stats(self, [self.encode(prompt) for prompt in prompts], completions)
            hidden, targets = self.hidden_states(prompts, completions)
            return token_logprobs(hidden, self.base.lm_head.weight, targets, temperature=self.temperature)
        finally:
            self.train(training)

    def loss(self, microbatch: Microbatch, token_loss: TokenLoss) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of one micro-batch and its diagnostics.

        Args:
            microbatch: rows and loss fields.
            token_loss: loss of each token; elementwise unless the fields number the completions.

        Returns:
            The loss (a scalar that already holds the normaliser), and elementwise diagnostics ``[M]`` without gradient,
            among them ``nll``, ``entropy`` and ``loss``.
        """
        if self.static:
            return static_loss(self, microbatch, token_loss)
        hidden, targets = self.hidden_states(microbatch.prompts, microbatch.token_ids)
        return head_loss(
            hidden,
            self.base.lm_head.weight,
            targets,
            microbatch.fields,
            token_loss,
            temperature=self.temperature,
            elementwise=microbatch.fields.completion_ids is None,
        )

    @contextmanager
    def reference(self) -> Iterator[None]:
        """Switch the adapters off, so that the policy is its own reference."""
        with self.model.disable_adapter():
            yield
