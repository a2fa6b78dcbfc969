"""Prompts of every shape."""

from PIL import Image

from lit_g2rpo.experience import Prompt


def make_prompt(name: str, images: int, words: int = 3, task: str = "ocr") -> Prompt:
    """A prompt with any number of images and words."""
    colours = [(40 * i % 256, 90, 200 - 30 * i) for i in range(images)]
    content = [{"type": "image"} for _ in range(images)] + [{"type": "text", "text": "Read the digits. " * words}]
    return Prompt(
        id=name,
        task=task,
        problem_type="OCR",
        messages=[{"role": "user", "content": content}],
        images=[Image.new("RGB", (64, 64), colour) for colour in colours],
        sample={"problem_type": "OCR", "answer": "12", "task_type": task},
        demonstration="<thinking>a</thinking><answer>12</answer>",
    )
