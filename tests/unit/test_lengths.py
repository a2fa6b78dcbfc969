"""Lengths of prompts with their images, against the processor itself."""

from types import SimpleNamespace
from typing import Any

import pytest
from helpers.paths import WEIGHTS
from PIL import Image

from lit_g2rpo.data.lengths import LongPrompt, check_lengths, check_prompt, expanded_length, image_tokens
from lit_g2rpo.data.media.images import ImageError
from lit_g2rpo.experience import Prompt
from lit_g2rpo.policy.processor import ImageOnlyQwen3VLProcessor


@pytest.fixture(scope="module")
def processor() -> Any:
    return ImageOnlyQwen3VLProcessor.from_pretrained(WEIGHTS)


def prompt(sizes: list[tuple[int, int]], text: str = "What is it?") -> Prompt:
    content = [{"type": "image"} for _ in sizes] + [{"type": "text", "text": text}]
    messages = [{"role": "user", "content": content}]
    return Prompt("f:1", "", "", messages, [Image.new("RGB", size) for size in sizes], {})


@pytest.mark.parametrize(
    "sizes", [[], [(64, 64)], [(640, 480)], [(7, 1000)], [(1, 1)], [(33, 97), (500, 20), (64, 64)], [(3000, 2000)]]
)
@pytest.mark.parametrize("limits", [{}, {"shortest_edge": 4096, "longest_edge": 65536}])
def test_the_length_is_that_of_the_processors_tokens(
    processor: Any, sizes: list[tuple[int, int]], limits: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    size = dict(processor.image_processor.size) | limits
    monkeypatch.setattr(processor.image_processor, "size", size)
    one = prompt(sizes)
    text = processor.apply_chat_template(one.messages, tokenize=False, add_generation_prompt=True)
    inputs = processor(text=[text], images=one.images or None, return_tensors="pt")
    assert expanded_length(processor, one) == inputs["input_ids"].shape[1]
    assert expanded_length(processor, one, sizes) == inputs["input_ids"].shape[1]
    pads = int((inputs["input_ids"] == processor.image_token_id).sum())
    assert sum(image_tokens(processor, *size) for size in sizes) == pads


class Rows:
    def __init__(self, lengths: list[int]) -> None:
        self.lengths, self.read = lengths, 0

    def __len__(self) -> int:
        return len(self.lengths)

    def outline(self, index: int) -> tuple[Prompt, list[tuple[int, int]]]:
        self.read += 1
        if self.lengths[index] < 0:
            raise ImageError("broken")
        one = prompt([], "a" * self.lengths[index])
        one.id = f"f:{index + 1}"
        return one, []


def test_rows_are_measured_before_training(processor: Any) -> None:
    base = expanded_length(processor, prompt([], ""))
    check_lengths(processor, Rows([10, 20, -1, 30]), base + 30)
    with pytest.raises(LongPrompt, match=rf"row f:2: its prompt has {base + 31} tokens .* allows {base + 30}; allow"):
        check_lengths(processor, Rows([10, 31, 40]), base + 30)


def test_of_many_rows_a_part_is_measured(processor: Any) -> None:
    rows = Rows([1] * 12_000)
    check_lengths(processor, rows, 16384)
    assert 1500 <= rows.read <= 2000


def test_a_prepared_prompt_is_checked() -> None:
    one = prompt([])
    check_prompt(one, 1)
    one.encoded = SimpleNamespace(input_ids=range(5))
    check_prompt(one, 5)
    check_prompt(one, None)
    with pytest.raises(
        LongPrompt, match=r"row f:1: its prompt has 5 tokens with its images and videos; data.max_prompt_tokens"
    ):
        check_prompt(one, 4)
