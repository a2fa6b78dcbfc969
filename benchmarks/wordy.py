"""A policy with varied completion lengths: the embedded one, taught to repeat its reasoning at random.

The embedded policy writes completions of a single length in four of its six tasks. Here it imitates demonstrations of
the same annotators again, with the reasoning repeated 0 to 3 times, uniformly. The repeats add no content.
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
"""Tokens; the longest demonstration has 55."""
STEPS = 150


def repeated(demonstration: str, times: int) -> str:
    """Repeat the reasoning of a demonstration.

    Args:
        demonstration: a completion with both tags.
        times: number of times that the reasoning appears.

    Returns:
        The completion, with its answer unchanged.
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
    """The embedded tasks with rows of mixed length to imitate."""

    def train_dataset(self) -> WordyRows:
        """Return the training rows."""
        return WordyRows("train", self.train_per_task, self.seed)


def build(folder: Path) -> None:
    """Train the policy unless its folder exists.

    Args:
        folder: Hugging Face folder to write.
    """
    # Rows that differ from those of later runs.
    data = WordyPrompts(seed=100, max_completion_tokens=LONGEST)
    stage(folder, lambda part: supervised(Path(START), part, data=data, steps=STEPS, validate=0, peak=4e-4))


if __name__ == "__main__":
    build(Path(sys.argv[1]))
