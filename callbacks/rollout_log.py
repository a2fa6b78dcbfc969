"""What the policy saw and wrote, in TensorBoard: images, completions, rewards, and a grouped dashboard."""

import re
from collections import defaultdict
from typing import Any

import lightning.pytorch as L
import numpy as np
from lightning.pytorch.loggers import TensorBoardLogger

from lit_g2rpo.callbacks.handles import RolloutWatch, ScoredRollout, handles
from lit_g2rpo.errors import UserError
from lit_g2rpo.experience import Prompt

QUANTITIES = {
    "accuracy": ("val/accuracy", "rollout/accuracy"),
    "reward": ("rollout/reward",),
    "length": ("rollout/length", "rollout/truncated"),
    "entropy": ("rollout/entropy", "train/entropy", "entropy_bounds"),
}
IMAGE_SIDE = 512


class RolloutLog(L.Callback):
    """Shows a few groups of a rollout: the images of the prompt, and its completions with rewards and advantages.

    The groups are the first of each task in turn, so the choice does not depend on chance. The layout of the custom
    scalars tab is written once at the start: a chart per quantity with the tasks as lines, and a chart per task.
    Without a TensorBoard logger the callback does nothing.

    Args:
        every_rollouts: interval between rollouts that are shown, rollouts.
        groups: groups to show of each of them.

    Raises:
        UserError: if an argument is below 1.
    """

    def __init__(self, every_rollouts: int = 10, groups: int = 4) -> None:
        if every_rollouts < 1 or groups < 1:
            raise UserError(f"RolloutLog: every_rollouts ({every_rollouts}) and groups ({groups}) must be at least 1")
        self.every_rollouts = every_rollouts
        self.groups = groups
        self._watch = RolloutWatch()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the layout of the dashboard."""
        run = handles(pl_module)
        self._watch.start(trainer, pl_module)
        writer = tensorboard_writer(trainer)
        if writer is not None and trainer.is_global_zero:
            writer.add_custom_scalars(dashboard(sorted(run.tasks)))

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Show a rollout right after it was scored; the first one always."""
        if not self._watch.fires(trainer, pl_module):
            return
        run = handles(pl_module)
        shown, late = divmod(run.rollout_index - 1, self.every_rollouts)
        writer = tensorboard_writer(trainer)
        rollout = run.experience
        if late or writer is None or rollout is None or not trainer.is_global_zero:
            return
        copies: dict[str, int] = defaultdict(int)
        for index in choose(rollout.prompts, self.groups, shown):
            prompt = rollout.prompts[index]
            copies[prompt.task] += 1
            tag = f"groups/{prompt.task}" + (f"/{copies[prompt.task]}" if copies[prompt.task] > 1 else "")
            writer.add_text(tag, group_text(rollout, index), trainer.global_step)
            for number, image in enumerate(prompt.images):
                small = image.convert("RGB")
                small.thumbnail((IMAGE_SIDE, IMAGE_SIDE))
                name = f"{tag}/image_{number}" if len(prompt.images) > 1 else f"{tag}/image"
                writer.add_image(name, np.asarray(small), trainer.global_step, dataformats="HWC")


def tensorboard_writer(trainer: L.Trainer) -> Any:
    """Find the TensorBoard writer of a run; None if it has none."""
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            return logger.experiment
    return None


def choose(prompts: Any, groups: int, turn: int) -> list[int]:
    """Choose prompts, one task after the other.

    Args:
        prompts: prompts of a rollout.
        groups: how many to choose at most.
        turn: how often was chosen before; every turn begins with a later task, so that all have theirs.

    Returns:
        Indices of the chosen prompts.
    """
    by_task: dict[str, list[int]] = defaultdict(list)
    for index, prompt in enumerate(prompts):
        by_task[prompt.task].append(index)
    tasks = sorted(by_task)
    first = turn * groups % len(tasks) if tasks else 0
    order = tasks[first:] + tasks[:first]
    rounds = max((len(indices) for indices in by_task.values()), default=0)
    turns = [by_task[task][number] for number in range(rounds) for task in order if number < len(by_task[task])]
    return turns[:groups]


def group_text(rollout: ScoredRollout, index: int) -> str:
    """Write a group as Markdown.

    Args:
        rollout: the rollout.
        index: index of the group's prompt.
    """
    prompt = rollout.prompts[index]
    size = len(rollout.completions) // len(rollout.prompts)
    parts = [f"**{prompt.task}** ({prompt.problem_type}), `{prompt.id}`", fenced(prompt_text(prompt))]
    parts.append("| # | reward | accuracy | format | advantage | tokens | |\n|---|---|---|---|---|---|---|")
    for number in range(size):
        row = index * size + number
        reward, completion = rollout.rewards[row], rollout.completions[row]
        notes = ", ".join(
            note
            for note, holds in {"truncated": completion.truncated, "dropped": not bool(rollout.valid[row])}.items()
            if holds
        )
        parts[-1] += (
            f"\n| {number} | {float(rollout.total_rewards[row]):.3f} | {reward.accuracy:.3f} | {reward.format:.3f}"
            f" | {float(rollout.advantages[row]):+.3f} | {len(completion.token_ids)} | {notes} |"
        )
    for number in range(size):
        parts.append(f"{number}:\n\n{fenced(rollout.completions[index * size + number].text)}")
    return "\n\n".join(parts)


def prompt_text(prompt: Prompt) -> str:
    """Write the messages of a prompt as text, with ``[image]`` where an image stands."""
    lines = []
    for message in prompt.messages:
        content = message["content"]
        items = [{"type": "text", "text": content}] if isinstance(content, str) else content
        lines += [item["text"] if item["type"] == "text" else f"[{item['type']}]" for item in items]
    return "\n".join(lines)


def fenced(text: str) -> str:
    """Put text into a Markdown code block, which shows tags as they are, with a fence that the text cannot close."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"


def dashboard(tasks: list[str]) -> dict[str, dict[str, list[Any]]]:
    """Lay out the custom scalars tab.

    Args:
        tasks: names of the tasks.

    Returns:
        Charts by category: a category per quantity with a line per task, and a category per task.
    """

    def tag(name: str) -> str:
        # the tab reads tags as patterns that need not match to the end
        return f"^{re.escape(name)}$"

    layout: dict[str, dict[str, list[Any]]] = {
        quantity: {name: ["Multiline", [tag(name), *(tag(f"{name}/{task}") for task in tasks)]] for name in names}
        for quantity, names in QUANTITIES.items()
    }
    for task in tasks:
        charts: dict[str, list[Any]] = {
            quantity: ["Multiline", [tag(f"{name}/{task}") for name in names]] for quantity, names in QUANTITIES.items()
        }
        charts["length band"] = ["Multiline", [tag(f"length_band/{side}/{task}") for side in ("low", "high")]]
        layout[f"task {task}"] = charts
    return layout
