"""``calibrate``: roll out the starting policy and propose length and entropy bands."""

import math
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from typing_extensions import override

from lit_g2rpo.cli.line import Line
from lit_g2rpo.cli.parts import PartsCLI
from lit_g2rpo.cli.verbs.calibrate_report import Proposal, figure, show
from lit_g2rpo.cli.words import without
from lit_g2rpo.data.datamodule import PromptData
from lit_g2rpo.data.loader import RolloutLoader
from lit_g2rpo.errors import UserError
from lit_g2rpo.experience import to_score
from lit_g2rpo.files import check_writable, whole, write_text
from lit_g2rpo.hardware.steps import Step
from lit_g2rpo.module import G2RPOModule
from lit_g2rpo.objectives.calibration import Measured, propose_entropy, propose_length, style_of
from lit_g2rpo.rewards.problem_types import problem_type_named
from lit_g2rpo.rewards.running.scorer import Scorer
from lit_g2rpo.rollout.engine import Sampling

OWN_KEYS = ("--prompts_per_task", "--output", "--styles")


class CalibrateCLI(PartsCLI):
    """Add the options for the amount to measure and the output."""

    @override
    def add_arguments_to_parser(self, parser: Any) -> None:
        super().add_arguments_to_parser(parser)
        parser.prog = "python -m lit_g2rpo calibrate"
        parser.description = "Roll out the starting policy, and propose length and entropy bands for its tasks."
        parser.add_argument("--prompts_per_task", type=int, default=200, help="Prompts per task, a completion each.")
        parser.add_argument("--output", type=str, default="bands.yaml", help="Config fragment to write; must be new.")
        parser.add_argument(
            "--styles", type=dict[str, str], default={}, help="Style by task: reasoning, hybrid or vision; inferred."
        )


def run(verb: str, line: Line) -> None:
    """Measure the starting policy on training prompts, and write a fragment of bands and a plot.

    Raises:
        UserError: if the output exists or is not a YAML file, or a number or style is wrong.
    """
    start = time.perf_counter()
    cli = CalibrateCLI(line.words)
    config = cli.config
    output = Path(config.output)
    plot = output.with_suffix(".png")
    if output.suffix not in (".yaml", ".yml"):
        raise UserError(f"--output {output} is not a YAML file; give a name such as bands.yaml")
    if found := next((path for path in (output, plot) if path.exists()), None):
        raise UserError(f"--output {output}: {found} exists; give a new name")
    check_writable(output)
    if config.prompts_per_task < 1:
        raise UserError(f"--prompts_per_task is {config.prompts_per_task}; it must be at least 1")
    if unknown := sorted(config.styles.keys() - cli.datamodule.tasks.keys()):
        raise UserError(f"--styles.{unknown[0]}: no such task; the tasks are {', '.join(cli.datamodule.tasks)}")
    for task in config.styles:
        style_of(task, "reasoning", config.styles)
    measured = measure(cli.model, cli.datamodule, config.prompts_per_task)
    longest = cli.datamodule.max_completion_tokens
    proposals = [propose(task, found, config.styles, longest) for task, found in measured.items()]
    policy = cli.model.policy_path
    write_text(output, fragment(config.data, proposals, f"{config.prompts_per_task} prompts a task by {policy}"))
    with whole(plot) as part:
        figure(proposals).savefig(part, dpi=110)
    show(proposals, longest, cli.model.objective.entropy)
    print(f"{output}, {plot}: bands from {config.prompts_per_task} prompts a task, {time.perf_counter() - start:.0f} s")
    print(f"use them: python -m lit_g2rpo fit {' '.join(without(OWN_KEYS, line.words))} --data {output}")


def measure(module: G2RPOModule, data: PromptData, prompts_per_task: int) -> dict[str, Measured]:
    """Roll out the starting policy on training prompts, with one completion each.

    Returns:
        Measurements by task, for the tasks that have rows.
    """
    data.module = module
    data.prepare_data()
    data.setup("fit")
    module.configure_model()
    module.policy.to("cuda" if torch.cuda.is_available() else "cpu")
    engine = module.evaluation_engine
    dataset = data.train_dataset()
    names = set(dataset.task_names())
    total = prompts_per_task * len(names)
    size = min(module.rollout.max_rows, total)
    # the tasks are dealt in turn, so the first prompts contain equally many of each
    loader = RolloutLoader(
        dataset,
        prompts=size,
        microbatches=1,
        rollouts_per_epoch=math.ceil(total / size),
        seed=module.rollout.seed,
        image_errors=data.image_errors,
        max_failure_rate=data.max_failure_rate,
        prepare=module.prepare_prompt,
        max_prompt_tokens=data.max_prompt_tokens,
        long_prompts=data.long_prompts,
    )
    functions = {name: task.reward for name, task in data.tasks.items() if task.reward is not None}
    scorer = Scorer(
        module.reward,
        functions,
        in_process=[name for name, task in data.tasks.items() if task.in_process],
        limits=module.reward_limits,
        judge=module.judge,
    )
    config = module.rollout
    measured = {name: Measured() for name in data.tasks if name in names}
    step = Step("sampling the starting policy", total, "completions").start()
    try:
        for rollout, (prompts, _) in enumerate(loader):
            prompts = prompts[: total - step.done]
            sampling = Sampling(
                data.max_completion_tokens, config.temperature, config.top_p, config.top_k, config.seed, rollout
            )
            engine.push()
            completions = engine.generate(prompts, 1, sampling)
            rewards = scorer.score(to_score(prompts, completions))
            for prompt, completion, reward in zip(prompts, completions, rewards, strict=True):
                entropy = completion.entropy if module.objective.entropy == "exact" else -completion.logprobs
                of_task = measured[prompt.task]
                of_task.lengths.append(len(completion.token_ids))
                of_task.entropies.append(float(entropy.double().mean()))
                of_task.accuracies.append(reward.accuracy)
                of_task.truncated.append(completion.truncated)
                of_task.problem_types.append(prompt.problem_type)
            step.advance(len(prompts))
    finally:
        step.end()
        scorer.close()
    return measured


def propose(task: str, measured: Measured, styles: dict[str, str], longest: int) -> Proposal:
    """Propose the bands of a task.

    Args:
        task: name of the task.
        measured: measurements of the starting policy.
        styles: style by task, if given.
        longest: longest completion, tokens.
    """
    style = style_of(task, problem_type_named(measured.usual_problem_type).style, styles)
    return Proposal(task, style, measured, propose_length(measured, style, longest), propose_entropy(measured))


def fragment(data: Any, proposals: list[Proposal], origin: str) -> str:
    """Format the proposals as a fragment that fills ``data`` on top of the recipe's own.

    Other settings of a task are kept, and so is a length band that is null or relative to another length.

    Args:
        data: class path and arguments of the data, as configured.
        origin: origin of the proposals, for the first line.

    Returns:
        YAML.
    """
    tasks = {name: dict(bands or {}) for name, bands in (data.init_args.get("tasks") or {}).items()}
    for proposal in proposals:
        bands = tasks.setdefault(proposal.task, {})
        for key, band in (("length", proposal.length), ("entropy", proposal.entropy)):
            if key not in bands or in_numbers(bands[key]):
                bands[key] = [getattr(band, name) for name in band.__dataclass_fields__]
    filled = {"class_path": data.class_path, "init_args": {"tasks": tasks}}
    text = yaml.safe_dump(filled, sort_keys=False, default_flow_style=None, width=120)
    return f"# fills data, on top of the recipe's own: bands proposed from {origin}\n{text}"


def in_numbers(band: Any) -> bool:
    """Return whether a configured band is in tokens or nats, so that a proposal may replace it."""
    return isinstance(band, list) and all(isinstance(value, int | float) for value in band)
