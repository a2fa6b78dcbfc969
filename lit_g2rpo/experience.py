"""Plain data of a rollout, with a shape for every field."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from PIL import Image
from torch import Tensor

from lit_g2rpo.errors import UserError
from lit_g2rpo.objectives.fields import TokenFields
from lit_g2rpo.rewards import RewardResult
from lit_g2rpo.rewards.answers.parse import unwrap
from lit_g2rpo.rewards.running.adapters import Batch


class Encoded(Protocol):
    """A prompt as tensors; only the policy knows its other fields."""

    @property
    def input_ids(self) -> Tensor:
        """Tokens, with image and video pads expanded, ``[L]`` long."""


@dataclass(slots=True, frozen=True)
class VideoLimits:
    """Configure how many frames of a video the policy sees, and how large; None keeps the checkpoint's own setting.

    Args:
        fps: frames per second of video.
        min_frames: fewest frames, unless the video has fewer.
        max_frames: most frames; in a longer video they are farther apart.
        max_pixels: largest frame, pixels; larger ones are scaled down.
        total_pixels: most pixels of all frames together; more frames are scaled down more.

    Raises:
        UserError: if a number is not positive, or ``min_frames`` exceeds ``max_frames``.
    """

    fps: float | None = None
    min_frames: int | None = None
    max_frames: int | None = None
    max_pixels: int | None = None
    total_pixels: int | None = None

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise UserError(f"data.video.{name} is {value}; it must be more than 0")
        for name in ("min_frames", "max_frames"):
            if getattr(self, name) == 1:
                raise UserError(f"data.video.{name} is 1; it must be 2 or more, since a patch spans two frames")
        if self.min_frames and self.max_frames and self.min_frames > self.max_frames:
            raise UserError(f"data.video.min_frames {self.min_frames} is more than max_frames {self.max_frames}")


@dataclass(slots=True, frozen=True)
class VideoHeader:
    """The frames of a video or of a clip of one.

    Args:
        first: number of the first frame, counted from the start of the file.
        count: number of frames.
        rate: frames per second.
        width: width of a frame as it is shown, pixels.
        height: height of a frame as it is shown, pixels.
    """

    first: int
    count: int
    rate: float
    width: int
    height: int


class Video(Protocol):
    """A video that is read when the policy encodes its prompt."""

    @property
    def limits(self) -> VideoLimits:
        """Number and size of the frames to read."""

    @property
    def shown(self) -> Sequence[Image.Image]:
        """A few of the frames that were read, for logs and rewards."""

    def header(self) -> VideoHeader:
        """Read which frames there are, without decoding all of them."""

    def read(self, numbers: Sequence[int], resize: Callable[[Tensor], Tensor]) -> Tensor:
        """Decode frames.

        Args:
            numbers: their numbers from the start of the file, ascending, ``T`` of them.
            resize: called with each frame, RGB, ``[3, H, W]`` uint8.

        Returns:
            The resized frames, ``[T, 3, h, w]`` uint8.
        """


@dataclass(slots=True)
class Prompt:
    """A question before it becomes tokens.

    Args:
        id: name of the data row, which seeds completions and is named in errors.
        task: name of the task (the unit of length and entropy shaping).
        problem_type: answer format (the unit of the Gaussian map).
        messages: chat messages; an image's place is a content item ``{"type": "image"}``, a video's ``{"type":
            "video"}``.
        images: the images, RGB, in the order of their places; empty for a text-only prompt.
        sample: the data row as a dict, which the reward reads.
        demonstration: a completion to imitate, only for supervised training.
        encoded: the prompt as tensors, which the policy stores here so that images are preprocessed only once.
        videos: the videos, in the order of their places.
    """

    id: str
    task: str
    problem_type: str
    messages: list[dict[str, Any]]
    images: list[Image.Image]
    sample: dict[str, Any]
    demonstration: str | None = None
    encoded: Encoded | None = None
    videos: Sequence[Video] = ()

    @property
    def pictures(self) -> list[Image.Image]:
        """The images, and once the prompt is encoded, a few frames of each video."""
        return [*self.images, *(frame for video in self.videos for frame in video.shown)]

    @property
    def answer(self) -> str:
        """The reference answer without its tags; empty if there is none."""
        return unwrap(str(self.sample.get("answer") or ""))

    @property
    def text(self) -> str:
        """The words of the messages, without the images."""
        return "\n".join(item["text"] for m in self.messages for item in m["content"] if item["type"] == "text")


@dataclass(slots=True)
class Completion:
    """What the policy wrote for a prompt.

    Args:
        token_ids: sampled tokens, including the end token if it was sampled, ``[T]`` long.
        logprobs: log-probability of each token under the sampling policy at the sampling temperature, nats, ``[T]``.
        entropy: exact entropy of the distribution each token was drawn from, nats, ``[T]``.
        text: the tokens as text, without special tokens, after the tag that the chat template opens, if any.
        truncated: True if the length limit ended it.
        version: optimizer steps that the weights had made that wrote it; all its tokens come from the same weights.
    """

    token_ids: Tensor
    logprobs: Tensor
    entropy: Tensor
    text: str
    truncated: bool
    version: int = 0


def to_score(prompts: Sequence[Prompt], completions: Sequence[Completion]) -> Batch:
    """Combine completions with what a reward may read from their prompts.

    Args:
        prompts: the prompts, ``P`` of them.
        completions: the same number of completions for each, prompt by prompt.

    Returns:
        The batch, in the order of the completions.
    """
    repeats = len(completions) // max(len(prompts), 1)
    of_row = [prompts[i // repeats] for i in range(len(completions))]
    return Batch(
        [completion.text for completion in completions],
        [prompt.sample for prompt in of_row],
        [prompt.task for prompt in of_row],
        [prompt.text for prompt in of_row],
        [completion.token_ids.tolist() for completion in completions],
        [prompt.pictures for prompt in of_row],
    )


@dataclass(slots=True)
class Evaluated:
    """A rank's scored batch of an evaluation: ``p`` prompts, ``n`` completions.

    Args:
        prompts: the prompts.
        rows: number of each prompt's row in the dataset; None for a prompt that only keeps ranks in step.
        completions: their completions, prompt by prompt.
        rewards: score of each completion.
    """

    prompts: list[Prompt]
    rows: list[int | None]
    completions: list[Completion]
    rewards: list[RewardResult]


@dataclass(slots=True)
class Microbatch:
    """The unit of one forward and backward: ``N`` rows of prompt and completion.

    Args:
        prompts: prompt of each row, ``N`` of them; rows of a group share one object.
        token_ids: completion tokens of each row, ``N`` tensors ``[T_i]`` long.
        fields: loss fields, flat over the ``M = sum T_i`` completion tokens in row order.
    """

    prompts: list[Prompt]
    token_ids: list[Tensor]
    fields: TokenFields


@dataclass(slots=True)
class RolloutTable:
    """What every rank knows of a rollout: one entry per prompt and completion, in the order of the prompts.

    Args:
        rewards: total rewards with shaping, ``[P, G]``.
        lengths: completion tokens, ``[P, G]`` long.
        valid: False for completions without an advantage: dropped groups and masked truncated ones, ``[P, G]`` bool.
        entropy_counts: False for completions whose entropy is not shaped: masked truncated ones, ``[P, G]`` bool.
        advantages: ``[P, G]``.
        task_ids: index of each prompt's task, ``[P]`` long.
        problem_type_ids: index of each prompt's problem type, ``[P]`` long.
        entropy_direction: which side of its band each task was on (+1 above, -1 below, 0 inside), times its
            ``entropy_scale``, ``[K]``.
    """

    rewards: Tensor
    lengths: Tensor
    valid: Tensor
    entropy_counts: Tensor
    advantages: Tensor
    task_ids: Tensor
    problem_type_ids: Tensor
    entropy_direction: Tensor


@dataclass(slots=True)
class Experience:
    """A rank's part of a scored rollout, ready for learning: ``p`` prompts, ``n = p * G`` completions.

    Args:
        prompts: this rank's prompts.
        completions: their completions, prompt by prompt.
        rewards: score of each completion.
        old_logprobs: log-probabilities under the trainer's policy at sampling time, nats, ``n`` tensors ``[T_i]``; None
            to use those of the rollout.
        ref_logprobs: log-probabilities under the reference, nats, ``n`` tensors ``[T_i]``; None when KL is off.
        table: the data of the rollout that all ranks know.
        rank: this rank.
        world_size: number of ranks; rank r holds prompts r, r + world_size, ...
        microbatches: the units of learning, in order.
        refills: indices of the prompts that were replaced, over all ranks, wave by wave.
    """

    prompts: list[Prompt]
    completions: list[Completion]
    rewards: list[RewardResult]
    old_logprobs: list[Tensor] | None
    ref_logprobs: list[Tensor] | None
    table: RolloutTable
    rank: int = 0
    world_size: int = 1
    microbatches: list[Microbatch] = field(default_factory=list)
    refills: list[list[int]] = field(default_factory=list)

    @property
    def total_rewards(self) -> Tensor:
        """Reward with shaping of each of this rank's completions, ``[n]``."""
        return self.table.rewards[self.rank :: self.world_size].flatten()

    @property
    def advantages(self) -> Tensor:
        """Advantage of each of this rank's completions, ``[n]``."""
        return self.table.advantages[self.rank :: self.world_size].flatten()

    @property
    def valid(self) -> Tensor:
        """False for this rank's completions that do not count, ``[n]``."""
        return self.table.valid[self.rank :: self.world_size].flatten()
