"""A policy whose lengths have something to choose from: the embedded one, taught to repeat its reasoning at random.

The embedded policy writes completions of one length in four of its six tasks. Here it imitates demonstrations of the
same annotators once more, with the reasoning of each said 0 to 3 times, evenly. The repeats say nothing new.
"""

import sys
from pathlib import Path

import numpy as np

from lit_g2rpo.experience import Prompt
from lit_g2rpo.mini.build import stage, supervised
from lit_g2rpo.mini.data import MiniDataset, MiniPrompts

START = "package:lit_g2rpo.mini/weights"
MOST = 3
LONGEST = 64
"""Tokens; the longest demonstration takes 55."""
STEPS = 150


def repeated(demonstration: str, times: int) -> str:
    """Say the reasoning of a demonstration so many times.

    Args:
        demonstration: a completion with both tags.
        times: how often.

    Returns:
        The completion, its answer unchanged.
    """
    before, rest = demonstration.split("<thinking>")
    reasoning, after = rest.split("</thinking>")
    return f"{before}<thinking>{';'.join([reasoning] * times)}</thinking>{after}"


class WordyRows(MiniDataset):
    """Training rows with demonstrations of mixed length."""

    def __getitem__(self, index: int) -> Prompt:
        """Draw a row.

        Args:
            index: number of the row.

        Returns:
            The prompt.
        """
        prompt = super().__getitem__(index)
        assert prompt.demonstration is not None
        times = int(np.random.default_rng([self.seed, index]).integers(MOST + 1))
        prompt.demonstration = repeated(prompt.demonstration, times)
        return prompt


class WordyPrompts(MiniPrompts):
    """The embedded tasks with such rows to imitate."""

    def train_dataset(self) -> WordyRows:
        """Training rows."""
        return WordyRows("train", self.train_per_task, self.seed)


def build(folder: Path) -> None:
    """Teach the policy, unless its folder is there.

    Args:
        folder: where it is written, as a Hugging Face folder.
    """
    # Other rows than those of the runs that follow.
    data = WordyPrompts(seed=100, max_completion_tokens=LONGEST)
    stage(folder, lambda part: supervised(Path(START), part, data=data, steps=STEPS, validate=0, peak=4e-4))


if __name__ == "__main__":
    build(Path(sys.argv[1]))
