"""Tasks: the unit of shaping, found by name, with their bands."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from lit_g2rpo.errors import UserError
from lit_g2rpo.objectives.relative_bands import RelativeBand, length_band
from lit_g2rpo.objectives.shaping import EntropyBand, LengthBand


@dataclass(slots=True)
class Task:
    """A named family of prompts with its shaping bands, which callbacks may move during a run.

    Args:
        name: the name in data rows.
        length: length band, tokens; None exempts the task from length shaping.
        entropy: entropy band, nats; None exempts the task from entropy shaping.
        reward: import path of a function that scores the task, such as ``my_module.my_function``; None for the rewards
            of its problem types.
        relative_length: length band relative to the reference answer, which then replaces ``length``, or to the
            starting mean, from which ``length`` is computed once `LengthCurriculum` has measured it.
        in_process: run the reward in the trainer's own process, for one that shares its GPU or its connections.
        entropy_scale: factor on the objective's entropy coefficient for this task.
        prompt_template: wording of the task's prompts, as Jinja text; None to use that of the data or the policy.
    """

    name: str
    length: LengthBand | None = None
    entropy: EntropyBand | None = None
    reward: str | None = None
    relative_length: RelativeBand | None = None
    in_process: bool = False
    entropy_scale: float = 1.0
    prompt_template: str | None = None


KEYS = ("length", "entropy", "reward", "in_process", "prompt_template")
"""Keys of a task in a config."""
TEXTS = {
    "reward": "an import path: my_module.my_function",
    "prompt_template": "Jinja text with {{ question }} in it",
}
"""Keys that are strings, and what to give."""

# Length thresholds: multiples of the 8B model's mean completion length per task before training, 4096 at most.
# Entropy thresholds: those of the released code, the same for every task.
TASKS = {
    name: Task(name, LengthBand(*length), EntropyBand(0.2, 0.6))
    for name, length in {
        "spatial_grounding": (12, 31, 75, 250),
        "spatial_reasoning": (100, 370, 1230, 3280),
        "general_vqa_science_stem": (240, 1140, 2400, 4096),
        "math_reasoning": (155, 750, 1560, 4096),
        "chart_figure_qa": (75, 270, 900, 2400),
        "ocr": (10, 26, 62, 210),
    }.items()
}


def task(name: str) -> Task:
    """Return a copy of one of the paper's tasks, so that moving its bands does not change the registry.

    Raises:
        UserError: if there is no such task.

    Source: OpenVLThinkerV2 (arXiv 2604.08539) section 2.3; thresholds are not published, see above.
    """
    if name not in TASKS:
        raise UserError(f"unknown task {name!r}; known: {', '.join(TASKS)}")
    return replace(TASKS[name])


def paper_tasks() -> dict[str, Task]:
    """Return copies of the paper's six tasks by name."""
    return {name: task(name) for name in TASKS}


def with_bands(
    tasks: Mapping[str, Task], overrides: Mapping[str, Mapping[str, Sequence[float | str] | str | bool | None] | None]
) -> dict[str, Task]:
    """Change bands, rewards and wordings of tasks, and add tasks, without modifying ``tasks``.

    Args:
        tasks: tasks by name.
        overrides: per task name ``length`` (four thresholds, see `length_band`) and ``entropy`` (two, nats), None to
            exempt the task, ``reward`` (import path of a function), ``in_process`` (whether it runs in this process)
            and ``prompt_template`` (Jinja text); a name not in ``tasks`` becomes a new task.

    Raises:
        UserError: for an unknown key, thresholds of the wrong number or order, a reward that is not an import path, or
            a template that is not a string.
    """
    if not isinstance(overrides, Mapping):
        raise UserError(f"data.tasks is {overrides!r}; give a mapping of task names, such as {{'ocr': {{}}}}")
    result = {name: replace(known) for name, known in tasks.items()}
    for name, bands in overrides.items():
        if not isinstance(bands, Mapping | None):
            raise UserError(f"data.tasks.{name} is {bands!r}; give a mapping of {', '.join(KEYS)}")
        changed = result.setdefault(name, Task(name))
        for key, values in (bands or {}).items():
            if key not in KEYS:
                raise UserError(f"data.tasks.{name}.{key}: unknown key; known: {', '.join(KEYS)}")
            if key == "in_process":
                if not isinstance(values, bool):
                    raise UserError(f"data.tasks.{name}.in_process is {values!r}; give true or false")
                changed.in_process = values
                continue
            if isinstance(values, bool):
                raise UserError(f"data.tasks.{name}.{key} is {values}; only in_process is true or false")
            if key in TEXTS and values is not None and not (isinstance(values, str) and values):
                raise UserError(f"data.tasks.{name}.{key} is {values!r}; give {TEXTS[key]}")
            if key == "length":
                changed.length = changed.relative_length = None
            if key in TEXTS or values is None:
                setattr(changed, key, values)
                continue
            try:
                band = length_band(values) if key == "length" else entropy_band(values)
            except UserError as error:
                shown = values if isinstance(values, str) else list(values)
                raise UserError(f"data.tasks.{name}.{key} is {shown}: {error}") from None
            setattr(changed, "relative_length" if isinstance(band, RelativeBand) else key, band)
    return result


def entropy_band(values: Sequence[float | str]) -> EntropyBand:
    """Read the low and high bound from a config, nats.

    Raises:
        UserError: if they are not two ascending numbers.
    """
    numbers = [float(value) for value in values if isinstance(value, int | float)]
    if len(numbers) != 2 or len(values) != 2:
        raise UserError("give 2 bounds in nats, ascending")
    return EntropyBand(*numbers)
