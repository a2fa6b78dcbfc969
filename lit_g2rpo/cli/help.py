"""The short help of a verb, generated from the settings without importing what they configure."""

import re
import textwrap
from dataclasses import MISSING, fields
from typing import Any

from lit_g2rpo.policy.config import PolicyConfig
from lit_g2rpo.rollout.config import EvaluationConfig, RolloutConfig, UpdateConfig
from lit_g2rpo.training.schedule import Checkpoints, Schedule

GROUPS: dict[str, Any] = {
    "schedule": Schedule,
    "checkpoint": Checkpoints,
    "model.policy": PolicyConfig,
    "model.rollout": RolloutConfig,
    "model.update": UpdateConfig,
    "model.evaluation": EvaluationConfig,
}
DERIVED = ("model.rollout.seed",)
PARTS = {
    "--run FOLDER": "an existing run, such as runs/g2rpo/version_0: use its configuration and its newest checkpoint; "
    "other options override it",
    "--config FILE": "a recipe, such as configs/g2rpo.yaml; may be repeated, later ones win",
    "--name NAME": "name of the experiment; its runs share a folder",
    "--seed_everything N": "seed of the run",
    "--model.policy FILE": "the policy: a file of configs/model, or its keys below",
    "--model.objective FILE": "advantages and loss: a file of configs/objective, or a class and its arguments",
    "--model.optimizer CLASS": "optimizer, such as torch.optim.AdamW, with --model.optimizer.lr and so on",
    "--model.lr_scheduler CLASS": "learning-rate schedule, stepped once per optimizer step",
    "--data FILE": "prompts: a file of configs/data, or a class and its arguments",
    "--trainer FILE": "a file of configs/strategy or configs/trainer; --trainer.KEY is a key of Lightning's Trainer",
    "--trainer.logger FILE": "a file of configs/logger, or a class and its arguments; false for none",
    "--ckpt_path PATH": "a checkpoint; last for the newest of the experiment, best for the best",
    "--print_config": "print the resolved configuration and exit",
}

NOT_SWEPT = ("--name", "--ckpt_path", "--print_config")
"""Keys that a sweep sets itself for its runs."""

EXTRA = {
    "fit": {
        "--more N": "with --run: train for N more rollouts",
        "--change KEY,...": "with --run: allow these keys to differ from the run, such as model.objective, data or "
        "seed_everything",
    },
    "sweep": {
        "--seeds N": "a run for each of the seeds 0 to N-1",
        "--vary KEY VALUE VALUE ...": "a run for each value, such as --vary model.objective "
        "configs/objective/grpo.yaml configs/objective/g2rpo.yaml; repeated, a run for each combination",
        "--parallel N": "runs at a time (default: 1)",
        "--output FOLDER": "folder of the runs; repeat the command to resume: finished runs are skipped, interrupted "
        "ones continue (default: runs/sweep)",
    },
    "export": {
        "--output DIR": "folder to write; must be new or empty",
        "--dtype TYPE": "float32, bfloat16 or float16 (default: that of the policy training began with)",
        "--push OWNER/NAME": "push the folder to the Hugging Face Hub, with the token of hf auth login or HF_TOKEN",
        "--private true|false": "visibility of a repository that the push creates (default: the owner's setting)",
    },
    "calibrate": {
        "--prompts_per_task N": "training prompts per task, a completion each (default: 200)",
        "--output FILE": "config fragment to write, with a plot next to it; must be new (default: bands.yaml)",
        "--styles.TASK STYLE": "reasoning, hybrid or vision; overrides what the task's name or answers suggest",
    },
    "plan": {
        "--memory_gib X": "memory of a device, GiB (default: that of the device in this machine)",
        "--images N": "images of a prompt, each of the largest area (default: 1)",
    },
    "serve": {
        "--host ADDRESS": "address to listen on, only this machine's own without a key (default: 127.0.0.1)",
        "--port N": "port to listen on (default: 8000)",
        "--api_key_env NAME": "environment variable that holds the key to ask for (default: none)",
        "--vllm FLAGS": "more flags of vLLM, in one word, such as '--tensor-parallel-size 4'; they win",
        "--dry_run true|false": "print the command and do not run it (default: false)",
    },
    "validate": {"--limit N": "the first N rows only"},
    "predict": {"--limit N": "the first N rows only"},
    "test": {
        "--limit N": "the first N rows only",
        "--repeats K": "completions per row, for mean and pass@K; needs --model.evaluation.temperature above 0",
        "--baseline FILE": "predictions.jsonl or metrics.json of another run, or its folder, to compare with",
    },
}


def verb_help(verb: str, summary: str) -> str:
    """Return the text of ``VERB --help``."""
    out = [
        f"usage: python -m lit_g2rpo {verb} (--config FILE | --run FOLDER) [--KEY VALUE ...]",
        "",
        f"{verb}: {summary}.",
        "",
    ]
    parts = {key: text for key, text in PARTS.items() if verb != "sweep" or key.split()[0] not in NOT_SWEPT}
    parts |= EXTRA.get(verb, {})
    out += [row(key, text) for key, text in parts.items()]
    for group, settings in GROUPS.items():
        descriptions = arguments(settings.__doc__ or "")
        out += ["", f"{group}:"]
        for field in fields(settings):
            default = field.default_factory() if field.default_factory is not MISSING else field.default
            value = "(required)" if default is MISSING else f"(default: {default})"
            if f"{group}.{field.name}" not in DERIVED:
                out.append(row(f"--{group}.{field.name}", f"{descriptions[field.name].rstrip('.')} {value}"))
    out += [
        "",
        f"A class's own keys: python -m lit_g2rpo {verb} --model.objective.help lit_g2rpo.objectives.G2RPO",
        f"Every key there is, the trainer's too: python -m lit_g2rpo {verb} --help=all",
    ]
    return "\n".join(out)


def row(key: str, text: str) -> str:
    """Lay out a key and its description in two columns, with line breaks as needed."""
    indent = " " * 42
    return textwrap.fill(text, 120, initial_indent=f"  {key:<40}", subsequent_indent=indent)


def arguments(docstring: str) -> dict[str, str]:
    """Read the descriptions, each on one line, in the ``Args`` section of a docstring in Google's style."""
    section = docstring.partition("Args:\n")[2].split("\n\n")[0]
    found = re.findall(r"^ {8}(\w+): (.*?)(?=^ {8}\w|\Z)", section.rstrip() + "\n", flags=re.M | re.S)
    return {name: re.sub(r"\s+", " ", text).strip().replace("``", "") for name, text in found}
