"""What of the reward a run may choose."""

from dataclasses import dataclass
from typing import Literal

from lit_g2rpo.errors import UserError


@dataclass(frozen=True)  # no slots: the config parser reads a default through its __dict__
class RewardConfig:
    r"""Choices of the built-in reward; the same object serves training, evaluation and the checks of data.

    Args:
        thinking_tag: name of the tag around the reasoning.
        answer_tag: name of the tag around the answer.
        style: ``strict``, total ``0.9 accuracy + 0.1 format``; or ``onethinker``, the rules of the reward that
            OpenVLThinkerV2 released: its structure reward on top (totals up to 1.5), words instead of characters in
            transcriptions, its rounding of numbers.
        fallback: what is graded if a completion has no answer tag: nothing, or the last ``\boxed{}`` or else the
            whole text behind the reasoning, as the released reward does.
        dense: partial credit by distance for counts and clicks, instead of right or wrong.
        open_ended: rule of open-ended answers: none, so that they need a custom reward, or ROUGE-L.
        final_form: a mathematical answer that leaves something to compute which gold does not, or that copies the
            question's formula, is wrong.
        min_reasoning: characters of reasoning below which a completion is not well-formed.

    Raises:
        UserError: if the tags are no tag names, or the same.
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


DEFAULT = RewardConfig()
