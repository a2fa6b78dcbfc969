"""Check whether a completion can have the form that the reward expects."""

from lit_g2rpo.policy.opening import opened_tag
from lit_g2rpo.policy.policy import Policy
from lit_g2rpo.rewards.answers.parse import envelope
from lit_g2rpo.rewards.config import RewardConfig


def tags_error(policy: Policy, reward: RewardConfig) -> str:
    """Explain why no completion of a policy can have format 1; empty if one can.

    Args:
        policy: its chat template may open a tag, and its tokenizer may drop tags as special tokens.
        reward: names the tags.
    """
    think, answer = reward.thinking_tag, reward.answer_tag
    text = f"<{think}>so</{think}><{answer}>B</{answer}>"
    ids = policy.processor.tokenizer(policy.left_to_write(text), add_special_tokens=False, return_tensors="pt")
    read = policy.decode(ids["input_ids"][0])
    if envelope(read, think, answer).well_formed:
        return ""
    opened = opened_tag(policy.opened)
    if opened == answer:
        return f"the chat template opens <{opened}> before any reasoning, so that format is always 0; take it out there"
    if opened and opened != think:
        return (
            f"the chat template opens <{opened}> at the end of each prompt, but model.reward.thinking_tag is "
            f"{think!r}, so that format is always 0; give model.reward.thinking_tag: {opened}"
        )
    return (
        f"the tokenizer does not keep <{think}> and <{answer}> ({text!r} comes back as {read!r}), so that format is "
        "always 0; give other names in model.reward.thinking_tag and model.reward.answer_tag"
    )
