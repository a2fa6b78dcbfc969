"""Changes to the config of a resumed run's checkpoint: which take effect, and which are refused."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from fnmatch import fnmatchcase
from typing import Any

from omegaconf import OmegaConf

from lit_g2rpo.errors import UserError
from lit_g2rpo.training.resumed_optimizer import NEW_RUN
from lit_g2rpo.training.schedule import optimizer_steps_per_rollout


class Verdict(Enum):
    """What happens to a changed key."""

    ACTS = "takes effect from the first step"
    BETWEEN = "takes effect, but not within a rollout"
    ON_REQUEST = "makes it a different run; takes effect if --change names it"
    NEVER = "does not fit the state in the checkpoint"


TABLE: tuple[tuple[str, Verdict], ...] = (
    ("model.optimizer.class_path", Verdict.NEVER),
    ("model.policy.lora.dropout", Verdict.ACTS),
    ("model.policy.lora*", Verdict.NEVER),
    ("model.policy.freeze", Verdict.NEVER),
    ("model.policy.dtype", Verdict.NEVER),
    ("model.policy.family", Verdict.NEVER),
    ("model.policy.path", Verdict.ON_REQUEST),
    ("model.policy.m??_pixels", Verdict.BETWEEN),
    ("model.objective.class_path", Verdict.ON_REQUEST),
    ("seed_everything", Verdict.ON_REQUEST),
    # the trainer counts optimizer steps; the module refuses to change their number
    ("model.update.*", Verdict.BETWEEN),
    ("trainer.accumulate_grad_batches", Verdict.BETWEEN),
    ("model.rollout.group_size", Verdict.BETWEEN),
    ("model.rollout.prompts", Verdict.BETWEEN),
    ("model.rollout.temperature", Verdict.BETWEEN),
    ("data.init_args.max_completion_tokens", Verdict.BETWEEN),
    ("data.init_args.mixture*", Verdict.BETWEEN),
    # all other keys affect which rows are trained on
    ("data.init_args.val*", Verdict.ACTS),
    ("data.init_args.test*", Verdict.ACTS),
    ("data.init_args.predict*", Verdict.ACTS),
    ("data.init_args.tasks.*.prompt_template", Verdict.BETWEEN),
    ("data.init_args.tasks*", Verdict.ACTS),
    ("data.init_args.limit", Verdict.ACTS),
    ("data.init_args.image_errors", Verdict.ACTS),
    ("data.init_args.max_failure_rate", Verdict.ACTS),
    ("data.init_args.rollouts_per_epoch", Verdict.ACTS),
    ("data.init_args.*_prompt*", Verdict.ACTS),
    ("data.init_args.prompt_template", Verdict.BETWEEN),
    ("data.*", Verdict.ON_REQUEST),
    ("*", Verdict.ACTS),
)
"""The first pattern that a key matches decides."""

ABSENT = "not given"
STEPS = ("model.update.epochs", "model.update.microbatches", "trainer.accumulate_grad_batches")


@dataclass(slots=True, frozen=True)
class Change:
    """A key whose value differs.

    Args:
        key: dotted key; a callback is named by its class.
        was: its value in the checkpoint.
        now: its value in this run.
        follows: the key that it refers to in both recipes, whose value it follows; empty if there is none.
    """

    key: str
    was: Any
    now: Any
    follows: str = ""

    @property
    def verdict(self) -> Verdict:
        """The verdict on this change."""
        return next(verdict for pattern, verdict in TABLE if fnmatchcase(self.key, pattern))

    @property
    def name(self) -> str:
        """The key with which to request this change."""
        return self.key.removesuffix(".class_path")

    def __str__(self) -> str:
        return f"{self.key}: {_shown(self.was)} in the checkpoint, {_shown(self.now)} from now on"

    def asked_for(self, keys: tuple[str, ...]) -> bool:
        """Return whether the key, one of its groups, or the key that it follows is among some keys."""
        return any(f"{self.key}.".startswith(f"{key}.") or (self.follows and self.follows == key) for key in keys)


def find_changes(was: dict[str, Any], now: dict[str, Any]) -> list[Change]:
    """Compare two recipes after resolving references.

    Args:
        was: the recipe in the checkpoint.
        now: this run's recipe.
    """
    return list(_differences("", resolved(was), resolved(now), was, now))


def admit(changes: list[Change], inside: bool, requested: tuple[str, ...] = ()) -> list[str]:
    """Refuse changes that a resumed run may not make.

    Args:
        changes: differences from the checkpoint.
        inside: True if the checkpoint is inside a rollout.
        requested: keys, or groups of keys, that may change even though that makes a different run.

    Returns:
        A line for each change, except those that follow from others.

    Raises:
        UserError: if one of them is refused.
    """
    for change in changes:
        if change.verdict is Verdict.NEVER:
            raise UserError(f"{_differs(change)}, which does not fit its state; resume with the same, or {NEW_RUN}")
        if change.verdict is Verdict.BETWEEN and inside:
            raise UserError(
                f"{_differs(change)}, but the checkpoint was saved within a rollout; change it at one between two "
                f"rollouts, or {NEW_RUN}"
            )
    wanting = [c for c in changes if c.verdict is Verdict.ON_REQUEST and not c.asked_for(requested)]
    if wanting:
        keys = ",".join(dict.fromkeys((*requested, *(change.follows or change.name for change in wanting))))
        raise UserError(
            f"{_differs(wanting[0])}, which makes it a different run: add --change {keys} to allow it, or {NEW_RUN}"
        )
    return [str(change) for change in changes if not change.follows]


def check_steps(was: dict[str, Any], now: dict[str, Any]) -> None:
    """Refuse a different number of optimizer steps per rollout, since the trainer counts the run in steps.

    Args:
        was: the recipe in the checkpoint.
        now: this run's recipe.

    Raises:
        UserError: if the number differs.
    """
    sizes = [[int(_value(resolved(recipe), key) or 1) for key in STEPS] for recipe in (was, now)]
    before, after = (optimizer_steps_per_rollout(*size) for size in sizes)
    if before != after:
        changed = next(key for key, one, other in zip(STEPS, *sizes, strict=True) if one != other)
        place = STEPS.index(changed)
        raise UserError(
            f"{_differs(Change(changed, sizes[0][place], sizes[1][place]))}, which makes {after} optimizer steps of a "
            f"rollout and not {before}, and the run is counted in them; resume with the same number of steps, or "
            f"{NEW_RUN}"
        )


def resolved(recipe: dict[str, Any]) -> dict[str, Any]:
    """Resolve the references in a recipe."""
    found: dict[str, Any] = OmegaConf.to_container(OmegaConf.create(recipe), resolve=True)  # type: ignore[assignment]
    return found


def _differences(key: str, was: Any, now: Any, raw_was: Any, raw_now: Any) -> Iterator[Change]:
    """Yield the differences between two values; ``raw_was`` and ``raw_now`` are the same with unresolved references."""
    named = [_by_class(value) for value in (was, now, raw_was, raw_now)]
    if isinstance(was, dict) and isinstance(now, dict) and was.get("class_path") != now.get("class_path"):
        # arguments of another class are not separate changes
        yield Change(f"{key}.class_path", was.get("class_path", ABSENT), now.get("class_path", ABSENT))
    elif isinstance(was, dict) and isinstance(now, dict):
        for name in dict.fromkeys((*now, *was)):
            inner = (value.get(name, ABSENT) if isinstance(value, dict) else ABSENT for value in (was, now))
            raw = (value.get(name) if isinstance(value, dict) else value for value in (raw_was, raw_now))
            yield from _differences(f"{key}.{name}".lstrip("."), *inner, *raw)
    elif None not in named and was and now:
        yield from _differences(key, *named)
    elif was != now and not _same_place(was, now):
        reference = re.fullmatch(r"\$\{\.*([\w.]+)\}", str(raw_now)) if raw_was == raw_now else None
        yield Change(key, was, now, reference[1] if reference else "")


def _by_class(value: Any) -> dict[str, Any] | None:
    """Key a list of classes by their names; None for any other value."""
    if not isinstance(value, list) or not all(isinstance(part, dict) and "class_path" in part for part in value):
        return None
    found: dict[str, Any] = {}
    for part in value:
        name = part["class_path"].rpartition(".")[2]
        found[name if name not in found else f"{name}.{len(found)}"] = part
    return found


def _same_place(was: Any, now: Any) -> bool:
    """Return whether two strings are paths of the same file or folder."""
    try:
        return isinstance(was, str) and isinstance(now, str) and os.path.samefile(was, now)
    except OSError:
        return False


def _value(recipe: dict[str, Any], key: str) -> Any:
    value: Any = recipe
    for name in key.split("."):
        value = (value or {}).get(name)
    return value


def _shown(value: Any) -> str:
    if isinstance(value, dict) and "class_path" in value:
        return str(value["class_path"])
    return "null" if value is None else str(value)


def _differs(change: Change) -> str:
    return f"{change.key} is {_shown(change.was)} in the checkpoint and {_shown(change.now)} here"
