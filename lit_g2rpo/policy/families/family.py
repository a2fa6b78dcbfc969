"""The interface of a model family: where its parts are, and how to call them."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from lit_g2rpo.policy.config import LoraConfig, Part
from lit_g2rpo.policy.forward.attention import Layout


@dataclass(slots=True, frozen=True)
class ImageSizes:
    """Sizes that determine how images become tokens.

    Args:
        patch: side of a patch, pixels.
        values: numbers in a patch, including its frames and channels.
        merge: patches per side of an image token.
        levels: tensors of features per image: the embeddings, and one for each text layer that adds more features at
            image tokens.
    """

    patch: int
    values: int
    merge: int
    levels: int


class Family(ABC):
    """Name the parts of a vision-language model in one place; nothing else knows their names.

    Inputs are those of Qwen's processors (``input_ids``, ``mm_token_type_ids``, ``pixel_values``, ``image_grid_thw``,
    ``pixel_values_videos``, ``video_grid_thw``), and positions have three axes: time, height, width. The vision tower
    treats a video as an image of several pairs of frames.

    ``model`` is always the Hugging Face model itself, inside its adapters if it has any. Models and configs are
    ``Any``: torch types each attribute of a module as a tensor or a module, and transformers fills configs at run time.
    """

    model_class: type[Any]
    """The ``PreTrainedModel``."""

    processor_class: type[Any]
    """Turns messages and images into inputs."""

    native_decoder = False
    """True if `rollout.native` can run the text model: its layers have the names and norms of Qwen3."""

    @abstractmethod
    def text(self, model: Any) -> Any:
        """Find the text model, which has ``embed_tokens``, ``layers``, ``norm`` and its own ``config``."""

    @abstractmethod
    def tower(self, model: Any) -> nn.Module:
        """Find the vision tower, including its mergers."""

    @abstractmethod
    def blocks(self, model: Any) -> list[nn.Module]:
        """List the modules whose weights are split over ranks and gathered separately: the layers of text and tower."""

    @abstractmethod
    def image_sizes(self, config: Any) -> ImageSizes:
        """Read how images become tokens from a model's config."""

    @abstractmethod
    def forbidden_token_ids(self, config: Any) -> list[int]:
        """List the ids that must never be sampled, such as image placeholders."""

    @abstractmethod
    def part_of(self, name: str) -> Part:
        """Return the part that a weight belongs to.

        Args:
            name: name of the weight, including wrappers' prefixes.

        Returns:
            ``vision`` (the tower without its mergers), ``merger`` or ``language``.
        """

    @abstractmethod
    def adapter_targets(self, lora: LoraConfig) -> str:
        """Return the regular expression for the linear layers that get an adapter, as ``peft`` expects it."""

    @abstractmethod
    def prepare_for_packing(self, model: Any) -> None:
        """Make a model also run packed groups, without changing its weights or their names."""

    @abstractmethod
    def positions(
        self,
        model: Any,
        input_ids: Tensor,
        token_types: Tensor,
        grid: Tensor | None,
        video_grid: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Compute the positions of the tokens in rows.

        Args:
            input_ids: ``[N, L]`` long, image and video pads expanded.
            token_types: 1 at image tokens, 2 at video tokens, 0 elsewhere, ``[N, L]`` long.
            grid: frames, rows and columns of patches of each image, ``[images, 3]`` long.
            video_grid: pairs of frames, rows and columns of patches of each video, ``[videos, 3]`` long.
            mask: 0 at pads, ``[N, L]`` long; None for no pads.

        Returns:
            ``[3, N, L]`` long.
        """

    @abstractmethod
    def image_features(self, model: Any, pixels: Tensor, grid: Tensor) -> list[tuple[Tensor, ...]]:
        """Run the vision tower.

        Args:
            pixels: patches of all images and videos, ``[patches, values]``, on the model's device.
            grid: pairs of frames, rows and columns of patches of each image, ``[images, 3]`` long, on the CPU, because
                loops over images would read it back from a device.

        Returns:
            For each level (see `ImageSizes`), the features of each image, ``[n_i, H]``.
        """

    @abstractmethod
    def padded_image_features(self, model: Any, pixels: Tensor, grid: Tensor, size: int) -> list[Tensor]:
        """Run the vision tower in a fixed shape.

        Args:
            pixels: patches of all images and videos, ``[patches, values]``, on the CPU; possibly none.
            grid: pairs of frames, rows and columns of patches of each image, ``[images, 3]`` long, on the CPU.
            size: patches to pad to.

        Returns:
            For each level, the features of all images and then of pads, ``[size / merge^2, H]``, on the model's device.
        """

    @abstractmethod
    def hidden_states(
        self,
        model: Any,
        embeddings: Tensor,
        positions: Tensor,
        layout: Layout,
        places: Tensor | None,
        added: list[Tensor],
    ) -> Tensor:
        """Run the prepared text model on a packed sequence.

        Args:
            embeddings: ``[N, H]``, including those of images.
            positions: ``[3, N]`` long.
            layout: which tokens see which.
            places: indices of the ``n`` image tokens; None if ``added`` covers all ``N`` tokens.
            added: features that the first layers add, ``[n, H]`` per layer; empty without images.

        Returns:
            Last hidden states, ``[N, H]``.
        """

    @abstractmethod
    def padded_states(self, model: Any, batch: dict[str, Tensor]) -> Tensor:
        """Run the model's own code on padded rows.

        Args:
            batch: the inputs from `collate`, on the CPU, with at least one image or video.

        Returns:
            Last hidden states, ``[N, L, H]``.
        """

    def forget_batch(self, model: Any) -> None:  # noqa: B027  # most models keep nothing
        """Clear state that the model keeps from its last batch and would use in its own ``generate``."""
