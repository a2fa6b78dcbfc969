"""The policy: a model with its processor, and the one seam that training goes through."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from lit_g2rpo.experience import Microbatch, Prompt
from lit_g2rpo.hardware.transfer import send
from lit_g2rpo.policy.backbone import Backbone, without_adapters
from lit_g2rpo.policy.config import Shapes
from lit_g2rpo.policy.encoding import EncodedPrompt, blank_prompt, encode
from lit_g2rpo.policy.families.family import Family
from lit_g2rpo.policy.feature_store import FeatureStore
from lit_g2rpo.policy.fixed_shapes.forward import static_loss, static_token_stats
from lit_g2rpo.policy.fixed_shapes.vision import host_features
from lit_g2rpo.policy.forward.attention import Kind
from lit_g2rpo.policy.forward.packing import packed_states
from lit_g2rpo.policy.forward.padded import padded_states
from lit_g2rpo.policy.forward.vision import keep_features
from lit_g2rpo.policy.head.token_stats import TokenLoss, head_loss, token_logprobs
from lit_g2rpo.policy.opening import opened_text

COMPILED = ("xla", "neuron")
"""Types of devices that compile for each shape."""


class Policy(nn.Module):
    """A model that samples completions and is trained on them.

    Args:
        model: a Hugging Face model, or a ``peft`` model around one.
        processor: its processor (chat template, tokenizer, images).
        family: the family of both.
        packing: train on packed groups instead of padded rows; the model is prepared for it.
        packed_attention: attention of packed groups; None for ``merged`` on the CPU and ``two_part`` elsewhere.
        features_on_device_mib: maximum device memory for kept image features, MiB; None for no limit.
        shapes: ``exact`` or ``static``; None for ``static`` on devices that compile for each shape.
    """

    if TYPE_CHECKING:
        # torch's own returns Any for every name, which would hide renamed members from type checkers
        __getattr__: None  # type: ignore[misc, assignment]

    def __init__(
        self,
        model: Any,
        processor: Any,
        family: Family,
        *,
        packing: bool = False,
        packed_attention: Kind | None = None,
        features_on_device_mib: float | None = None,
        shapes: Shapes | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.processor = processor
        self.packing, self._shapes = packing, shapes
        self.temperature = 1.0
        self.version = 0
        """Number of optimizer steps in the weights, for engines that keep a copy of them; the trained module counts."""
        self.opened = opened_text(processor)
        base, limit = without_adapters(model), features_on_device_mib
        sizes = family.image_sizes(base.config)
        with torch.device("cpu"):  # a trainer builds models in the context of its device, but prompts are on the CPU
            blank = encode(processor, base, family, blank_prompt(4 * sizes.patch * sizes.merge))
        features = FeatureStore(math.inf if limit is None else limit * 2**20)
        # not a module, so that weights keep their names and are moved or split only once
        self.backbone = Backbone(base, family, blank, self.pad_token_id, packed_attention, features)

    @property
    def base(self) -> Any:
        """The bare model, without its ``peft`` wrapper."""
        return self.backbone.model

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.backbone.device

    @property
    def static(self) -> bool:
        """True if everything runs in a few fixed shapes."""
        return (self._shapes or ("static" if self.device.type in COMPILED else "exact")) == "static"

    @property
    def empty(self) -> Tensor:
        """An empty tensor with the device and type of loss fields; with fixed shapes, tiles are cut on the CPU."""
        return torch.empty(0, device="cpu" if self.static else self.device, dtype=self.backbone.loss_dtype)

    @property
    def pad_token_id(self) -> int:
        """Id of the padding token."""
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
        """Ids that must never be sampled."""
        return self.backbone.family.forbidden_token_ids(self.base.config)

    def encode(self, prompt: Prompt) -> EncodedPrompt:
        """Tokenize a prompt, on the CPU, once; later calls for the same object return the same tensors."""
        if prompt.encoded is None:
            prompt.encoded = encode(self.processor, self.base, self.backbone.family, prompt)
            self.backbone.counters.images_preprocessed += len(prompt.images) + len(prompt.videos)
        return cast(EncodedPrompt, prompt.encoded)

    def decode(self, token_ids: Tensor) -> str:
        """Decode completion tokens, ``[T]`` long, without special tokens, after the tag that the template opens."""
        return self.opened + str(self.processor.tokenizer.decode(token_ids, skip_special_tokens=True))

    def left_to_write(self, text: str) -> str:
        """Remove the tag that the chat template opens from the start of a full completion, if it is there."""
        tag, begun = self.opened.strip(), text.lstrip()
        return begun.removeprefix(tag).lstrip() if tag and begun.startswith(tag) else text

    def prepare_features(self, prompts: list[Prompt]) -> None:
        """Tokenize prompts, and encode their images if the vision tower is frozen; call this on gathered weights.

        Training passes then never run the tower, so all ranks run the same modules.
        """
        rows = [self.encode(prompt) for prompt in prompts]
        if self.backbone.tower_learns:
            return
        if self.static:
            host_features(self.backbone, [row for row in rows if row.pixel_values is not None])
        else:
            keep_features(self.backbone, rows)

    def hidden_states(self, prompts: list[Prompt], completions: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Compute the hidden states that predict every completion token; rows of one prompt object share its tokens.

        Args:
            prompts: the prompt of each row, ``N`` of them.
            completions: completion tokens of each row, ``[T_i]`` long, each at least one token.

        Returns:
            Hidden states ``[M, H]`` and the tokens they predict ``[M]``, over the ``M = sum T_i`` tokens in row order.
        """
        rows = [self.encode(prompt) for prompt in prompts]
        states = packed_states if self.packing else padded_states
        targets = send(torch.cat([torch.empty(0, dtype=torch.long), *completions]), self.device)
        return states(self.backbone, rows, completions), targets

    def token_stats(self, prompts: list[Prompt], completions: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Compute log-probability and exact entropy of every completion token, without dropout.

        Returns:
            Log-probabilities and entropies, nats, flat over the ``M = sum T_i`` tokens in row order.
        """
        # FSDP has moved them to the device, but rows are prepared on the host
        completions = [tokens.cpu() for tokens in completions]
        training = self.training
        self.eval()
        try:
            if self.static:
                rows = [self.encode(prompt) for prompt in prompts]
                return static_token_stats(self.backbone, rows, completions, self.temperature)
            hidden, targets = self.hidden_states(prompts, completions)
            return token_logprobs(hidden, self.backbone.head, targets, temperature=self.temperature)
        finally:
            self.train(training)

    def loss(self, microbatch: Microbatch, token_loss: TokenLoss) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the loss of one micro-batch, including its normalizer.

        Returns:
            The loss, a scalar, and elementwise diagnostics ``[M]`` without gradient, among them ``nll``, ``entropy``
            and ``loss``.
        """
        if self.static:
            rows = [self.encode(prompt) for prompt in microbatch.prompts]
            return static_loss(self.backbone, rows, microbatch, token_loss, self.temperature)
        hidden, targets = self.hidden_states(microbatch.prompts, microbatch.token_ids)
        return head_loss(
            hidden,
            self.backbone.head,
            targets,
            microbatch.fields,
            token_loss,
            temperature=self.temperature,
            elementwise=microbatch.fields.completion_ids is None,
        )

    @contextmanager
    def reference(self) -> Iterator[None]:
        """Disable the adapters, so that the policy is its own reference."""
        with self.model.disable_adapter():
            yield
