"""Settings of the built-in reward."""

from dataclasses import dataclass
from typing import Literal

from lit_g2rpo.errors import UserError


@dataclass(frozen=True)  # no slots: the config parser reads defaults through __dict__
class RewardConfig:
    r"""Configure the built-in reward for training, evaluation and data checks alike.

    Args:
        thinking_tag: name of the tag around the reasoning.
        answer_tag: name of the tag around the answer.
        style: ``strict``, total ``0.9 accuracy + 0.1 format``; or ``onethinker``, the rules of the reward released
            with OpenVLThinkerV2: an added structure reward (totals up to 1.5), transcriptions compared by words
            instead of characters, and its rounding of numbers.
        fallback: what to grade if a completion has no answer tag: nothing, or, as the released reward does, the last
            ``\boxed{}``, else all text after the reasoning.
        dense: partial credit by distance for counts and clicks, instead of right or wrong.
        open_ended: rule for open-ended answers: ROUGE-L, or none, in which case they need a custom reward.
        final_form: reject a mathematical answer that leaves a computation open which gold does not, or that copies
            the question's formula.
        min_reasoning: fewest characters of reasoning that a well-formed completion has.

    Raises:
        UserError: if a tag is not a valid tag name, both are the same, or a length is negative.
    """

    thinking_tag: str = "thinking"
    answer_tag: str = "answer"
    style: Literal["strict", "onethinker"] = "strict"
    fallback: Literal["none", "whole_response"] = "none"
    dense: bool = False
    open_ended: Literal["none", "rouge_l"] = "none"
    final_form: bool = True
    min_reasoning: int = 0

    def __post_init__(self) -> None:
        for key in ("thinking_tag", "answer_tag"):
            name = getattr(self, key)
            if not name.replace("_", "").replace("-", "").isalnum():
                raise UserError(f"model.reward.{key} is {name!r}; give a bare name of letters, such as 'think'")
        if self.thinking_tag == self.answer_tag:
            raise UserError(f"model.reward.thinking_tag and answer_tag are both {self.answer_tag!r}; they must differ")
        if self.min_reasoning < 0:
            raise UserError(f"model.reward.min_reasoning is {self.min_reasoning}; it must be 0 or more characters")


DEFAULT = RewardConfig()
