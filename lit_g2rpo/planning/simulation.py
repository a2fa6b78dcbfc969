"""The real forward, loss and backward of a micro-batch on tensors without data, to measure their memory."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import PreTrainedConfig

from lit_g2rpo.objectives.fields import TokenFields
from lit_g2rpo.objectives.objective import Objective
from lit_g2rpo.planning.live import LiveMemory
from lit_g2rpo.policy.backbone import Backbone, without_adapters
from lit_g2rpo.policy.config import PolicyConfig
from lit_g2rpo.policy.encoding import EncodedPrompt
from lit_g2rpo.policy.families.family import Family
from lit_g2rpo.policy.feature_store import FeatureStore
from lit_g2rpo.policy.forward.packing import packed_states
from lit_g2rpo.policy.forward.vision import keep_features
from lit_g2rpo.policy.head.token_stats import head_loss
from lit_g2rpo.policy.loading import prepare


@dataclass(slots=True, frozen=True)
class MicrobatchSize:
    """Sizes of a micro-batch.

    Args:
        prompt_tokens: tokens of each prompt, including its images.
        grids: height and width, in patches, of each image of a prompt.
        groups: tokens of each completion, by group.
    """

    prompt_tokens: int
    grids: tuple[tuple[int, int], ...]
    groups: tuple[tuple[int, ...], ...]

    @property
    def tokens(self) -> int:
        """Return the number of tokens in prompts and completions."""
        return sum(self.prompt_tokens + sum(group) for group in self.groups)


@dataclass(slots=True, frozen=True)
class PassMemory:
    """Bytes that forward and backward of a micro-batch need besides weights and gradients.

    Args:
        kept: activations kept for the backward pass.
        working: everything else at the peak: the head's tile and gradients, recomputed activations.
    """

    kept: int
    working: int


class Phantom:
    """A policy made of the real classes whose weights have shapes but no data.

    Args:
        shape: sizes of the model, a config of the family.
        device: ``cpu`` or ``cuda``; selects kernels and tile sizes.
        dtype: dtype of the weights.
        autocast: compute in bfloat16 if the weights are wider.
    """

    def __init__(
        self,
        family: Family,
        shape: PreTrainedConfig,
        config: PolicyConfig,
        device: str,
        dtype: torch.dtype,
        autocast: bool,
    ) -> None:
        self.device, self.autocast = device, autocast
        # Index tensors on the host stay real, so that code that reads them runs unchanged.
        self._mode = FakeTensorMode(allow_non_fake_inputs=True)
        with torch.device("meta"):
            model = family.model_class._from_config(shape, dtype=dtype, attn_implementation=config.attention)
            model = prepare(model.train(), family, config)
        with self._mode:
            _give_device(model)
        self.parameters: dict[str, Tensor] = dict(model.named_parameters())
        self.buffers = list(model.buffers())
        self._sizes = family.image_sizes(shape)
        # As in Policy: one small image for a batch without images while the tower learns.
        side = 4 * self._sizes.merge
        blank = self._prompt(MicrobatchSize(20, ((side, side),), ()))
        attention = config.packed_attention or ("merged" if device == "cpu" else "two_part")
        self.backbone = Backbone(without_adapters(model), family, blank, 0, attention, FeatureStore(float("inf")))

    @property
    def learning(self) -> list[Tensor]:
        """Return the trainable weights."""
        return [weight for weight in self.parameters.values() if weight.requires_grad]

    def microbatch(self, size: MicrobatchSize, objective: Objective, gradients: bool) -> PassMemory:
        """Measure forward and backward of a micro-batch.

        Args:
            gradients: True if an earlier micro-batch of the same optimizer step left gradients.
        """
        prompts = [self._prompt(size) for _ in size.groups]
        rows = [prompt for prompt, group in zip(prompts, size.groups, strict=True) for _ in group]
        completions = [torch.zeros(tokens, dtype=torch.long) for group in size.groups for tokens in group]
        live = LiveMemory([*self.parameters.values(), *self.buffers])
        with live:
            if not self.backbone.tower_learns:
                keep_features(self.backbone, prompts)
            if gradients:
                for weight in self.learning:
                    weight.grad = torch.zeros_like(weight)
            before, live.peak = live.now, live.now
            with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
                hidden = packed_states(self.backbone, rows, completions)
                kept = live.now - before
                loss = self._loss(hidden, completions, objective)
            loss.backward()  # type: ignore[no-untyped-call]
        beside = live.peak - before - (0 if gradients else sum(weight.nbytes for weight in self.learning))
        for weight in self.learning:
            weight.grad = None
        return PassMemory(min(kept, max(beside, 0)), max(beside - kept, 0))

    def _prompt(self, size: MicrobatchSize) -> EncodedPrompt:
        ids, types = torch.zeros(2, size.prompt_tokens, dtype=torch.long)
        patches = sum(height * width for height, width in size.grids)
        types[: patches // self._sizes.merge**2] = 1
        with self._mode:
            pixels = torch.empty(patches, self._sizes.values) if patches else None
        grid = torch.tensor([[1, *grid] for grid in size.grids]) if patches else None
        return EncodedPrompt(
            ids, types, torch.arange(size.prompt_tokens).expand(3, -1), size.prompt_tokens, pixels, grid
        )

    def _loss(self, hidden: Tensor, completions: list[Tensor], objective: Objective) -> Tensor:
        lengths = torch.tensor([len(tokens) for tokens in completions])
        zero = hidden.new_zeros(int(lengths.sum()), dtype=torch.float32)
        fields = TokenFields(
            advantages=zero,
            old_logprobs=zero,
            ref_logprobs=zero if objective.kl_coefficient > 0 else None,
            weight=zero,
            entropy_weight=zero,
            task_ids=torch.zeros(len(zero), dtype=torch.long),
            completion_ids=None if objective.elementwise else torch.arange(len(lengths)).repeat_interleave(lengths),
        )
        loss, _ = head_loss(
            hidden,
            self.backbone.head,
            torch.cat(completions),
            fields,
            objective.token_loss,
            elementwise=objective.elementwise,
            # phantoms are on the CPU, which has every kernel
            device=self.device,
        )
        return loss


def _give_device(model: Any) -> None:
    """Replace meta tensors with phantoms on the CPU; shared weights stay shared."""
    made: dict[int, Tensor] = {}
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, old in tensors.items():
                if old is None:
                    continue
                if id(old) not in made:
                    new = torch.empty(old.shape, dtype=old.dtype)
                    made[id(old)] = torch.nn.Parameter(new, old.requires_grad) if tensors is module._parameters else new
                tensors[name] = made[id(old)]
