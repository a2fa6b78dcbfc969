"""What forward passes need from a policy: its model, access to the model's parts, and state that passes share."""

from typing import Any

import torch
from torch import Tensor, nn

from lit_g2rpo.policy.counters import Counters
from lit_g2rpo.policy.encoding import EncodedPrompt, blank_text
from lit_g2rpo.policy.families.family import Family, ImageSizes
from lit_g2rpo.policy.feature_store import FeatureStore
from lit_g2rpo.policy.forward.attention import Kind


class Backbone:
    """A model that forward passes run on; its owner registers, moves and saves it.

    Args:
        model: the bare Hugging Face model, without its ``peft`` wrapper (`Family` says why it is ``Any``).
        family: names the model's parts.
        blank: a prompt with a small image, which gives a batch without images the same forward as any other.
        pad_token_id: id of the padding token.
        attention: attention of packed groups; None for ``merged`` on the CPU and ``two_part`` elsewhere.
        features: store for image features if the vision tower is frozen.
    """

    def __init__(
        self,
        model: Any,
        family: Family,
        blank: EncodedPrompt,
        pad_token_id: int,
        attention: Kind | None,
        features: FeatureStore,
    ) -> None:
        self.model, self.family = model, family
        self.blank, self.pad_token_id = blank, pad_token_id
        # A trainer builds models in the context of its device, but prompts are on the CPU.
        with torch.device("cpu"):
            self.blank_text = blank_text(pad_token_id)
        self._attention = attention
        self.features = features
        self.counters = Counters()
        # Decided now: a reference is frozen later, but its features differ from those of a tower that is being trained.
        self.tower_learns = any(parameter.requires_grad for parameter in family.tower(model).parameters())

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        device: torch.device = next(self.model.parameters()).device
        return device

    @property
    def loss_dtype(self) -> torch.dtype:
        """Type that losses are computed in: that of the weights, but at least float32."""
        return torch.promote_types(next(self.model.parameters()).dtype, torch.float32)

    @property
    def attention(self) -> Kind:
        """Attention of packed groups."""
        return self._attention or ("merged" if self.device.type == "cpu" else "two_part")

    @property
    def text(self) -> Any:
        """The text model."""
        return self.family.text(self.model)

    @property
    def layers(self) -> nn.ModuleList:
        """Layers of the text model."""
        layers: nn.ModuleList = self.text.layers
        return layers

    @property
    def embedding(self) -> nn.Module:
        """Embedding of tokens; its weight is ``[V, H]``."""
        embedding: nn.Module = self.model.get_input_embeddings()
        return embedding

    @property
    def head(self) -> Tensor:
        """Weight of the language-model head, ``[V, H]``; that of the embedding if they are tied."""
        weight: Tensor = self.model.get_output_embeddings().weight
        return weight

    @property
    def blocks(self) -> list[nn.Module]:
        """Modules whose weights are split over ranks and gathered separately."""
        return self.family.blocks(self.model)

    @property
    def image_sizes(self) -> ImageSizes:
        """Sizes by which images become tokens."""
        return self.family.image_sizes(self.model.config)


def without_adapters(model: Any) -> Any:
    """Return the bare Hugging Face model, without the ``peft`` model around it if there is one."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model
