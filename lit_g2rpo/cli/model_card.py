"""The model card of an exported policy: its training, data and results, and how to load it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lit_g2rpo.callbacks.decline import METRIC
from lit_g2rpo.callbacks.logged import per_task
from lit_g2rpo.cli.changes import resolved

EMBEDDED = "package:"
PAPER = "https://arxiv.org/abs/2604.08539"
LOADING = """\
```python
from transformers import AutoModelForImageTextToText, AutoProcessor

model = AutoModelForImageTextToText.from_pretrained({folder})
processor = AutoProcessor.from_pretrained({folder})  # needs torchvision
content = [{{"type": "image", "image": image}}, {{"type": "text", "text": question}}]
inputs = processor.apply_chat_template(
    [{{"role": "user", "content": content}}],
    add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
)
tokens = model.generate(**inputs, max_new_tokens={max_tokens})
print(processor.batch_decode(tokens[:, inputs["input_ids"].shape[1] :])[0])
```"""


@dataclass(slots=True, frozen=True)
class Facts:
    """The content of a card.

    Args:
        name: title, and the name in the loading code.
        base: ``model.policy.path``: a Hub name, ``package:...`` or a folder.
        license: the base's license by its identifier on the Hub; None if its folder does not say.
        objective: name of the objective's class.
        weights: number and type of the weights.
        rollouts: number of rollouts done.
        history: metrics of each validation by name, in order.
        recipe: recipe of the run; None if it has none.
        max_tokens: longest completion in training.
        versions: versions of packages by name.
    """

    name: str
    base: str
    license: str | None
    objective: str
    weights: str
    rollouts: int
    history: list[dict[str, float]]
    recipe: dict[str, Any] | None
    max_tokens: int
    versions: dict[str, str]


def model_card(facts: Facts) -> str:
    """Return the text of a folder's ``README.md``."""
    shown = "".join(f"| {key} | {value} |\n" for key, value in _rows(facts).items())
    parts = [
        f"# {facts.name}",
        f"{_base(facts.base)}, trained with {facts.objective}. Made with lit_g2rpo, an implementation of "
        f"[Gaussian GRPO]({PAPER}) for vision-language models.",
        "## Training",
        f"| | |\n|---|---|\n{shown.rstrip()}",
        "## Results",
        _results(facts.history),
        "## Use",
        LOADING.format(folder=json.dumps(facts.name), max_tokens=facts.max_tokens),
        "Prompts that are worded as in training get the answers that were trained.",
    ]
    if facts.recipe is not None:
        text = yaml.safe_dump(facts.recipe, sort_keys=False, allow_unicode=True).rstrip()
        parts += [
            "## Recipe",
            f"<details><summary>the whole configuration</summary>\n\n```yaml\n{text}\n```\n\n</details>",
        ]
    parts += ["## Versions", ", ".join(f"{name} {version}" for name, version in facts.versions.items())]
    return f"---\n{_front_matter(facts)}\n---\n\n" + "\n\n".join(parts) + "\n"


def _front_matter(facts: Facts) -> str:
    from huggingface_hub import ModelCardData

    return ModelCardData(
        base_model=facts.base if _on_the_hub(facts.base) else None,
        license=facts.license,
        library_name="transformers",
        pipeline_tag="image-text-to-text",
        tags=["reinforcement-learning", "lit_g2rpo", facts.objective.lower()],
    ).to_yaml()


def _rows(facts: Facts) -> dict[str, str]:
    rows = {
        "base policy": _base(facts.base),
        "license of the base" if facts.license else "license": facts.license or "not stated next to the base's weights",
        "weights": facts.weights,
        "objective": f"`{facts.objective}`",
        "rollouts": str(facts.rollouts),
    }
    if facts.recipe is None:
        return rows
    recipe = resolved(facts.recipe)
    model, data = recipe["model"], recipe["data"]
    rollout, optimizer = model["rollout"], model["optimizer"]
    options = data.get("init_args") or {}
    rows |= {
        "each rollout": f"{rollout['prompts']} prompts x {rollout['group_size']} completions",
        "data": f"`{data['class_path']}`" + (f": `{options['train']}`" if options.get("train") else ""),
        "optimizer": f"`{optimizer['class_path']}`, learning rate {(optimizer.get('init_args') or {}).get('lr')}",
        "seed": str(recipe["seed_everything"]),
        "name of the recipe": f"`{recipe['name']}`",
    }
    return rows


def _results(history: list[dict[str, float]]) -> str:
    scored = [metrics for metrics in history if METRIC in metrics]
    if not scored:
        return "The run has no validation."
    first, last = scored[0], scored[-1]
    begun, ended = per_task(first, METRIC), per_task(last, METRIC)
    lines = [
        f"| accuracy on validation prompts | after {first['rollout']:.0f} rollouts | after {last['rollout']:.0f} |",
        "|---|---|---|",
        *(f"| {task} | {begun.get(task, float('nan')):.3f} | {value:.3f} |" for task, value in ended.items()),
        f"| **mean** | {first[METRIC]:.3f} | {last[METRIC]:.3f} |",
    ]
    return "\n".join(lines)


def _on_the_hub(base: str) -> bool:
    return not base.startswith((EMBEDDED, ".", "/", "~")) and base.count("/") == 1


def _base(base: str) -> str:
    if base.startswith(EMBEDDED):
        return f"The policy embedded in `{base.removeprefix(EMBEDDED).partition('/')[0]}`"
    if _on_the_hub(base):
        return f"[{base}](https://huggingface.co/{base})"
    # the path on this machine does not belong in the card
    return f"The policy of the folder `{Path(base).name}`"
