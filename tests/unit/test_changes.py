"""A resumed run names what it changes of its checkpoint's recipe, or refuses it in one line."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.composed import RECIPES, Composed
from helpers.paths import CONFIGS, ROOT

from lit_g2rpo.cli.changes import TABLE, admit, check_steps, find_changes
from lit_g2rpo.cli.trainer import TrainerCLI
from lit_g2rpo.errors import UserError

RECIPE = ["--config", str(CONFIGS / "g2rpo.yaml")]


def recipe(*words: str) -> dict[str, Any]:
    made: dict[str, Any] = Composed("fit", [*RECIPE, *words]).save_config_kwargs["recipe"]
    return made


@pytest.fixture(scope="module")
def default() -> dict[str, Any]:
    return recipe()


def changed(default: dict[str, Any], **values: Any) -> dict[str, Any]:
    """Change keys, whose dots are double underscores."""
    made = copy.deepcopy(default)
    for key, value in values.items():
        *path, last = key.split("__")
        place: Any = made
        for name in path:
            place = place[name]
        place[last] = value
    return made


def lines(default: dict[str, Any], now: dict[str, Any], inside: bool = False, *asked: str) -> list[str]:
    check_steps(default, now)
    return admit(find_changes(default, now), inside, asked)


def test_nothing_changed_is_nothing_said(default: dict[str, Any]) -> None:
    assert lines(default, copy.deepcopy(default), inside=True) == []


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("model__optimizer__init_args__lr", 1e-3, "lr: 6e-05 in the checkpoint, 0.001 from now on"),
        ("model__optimizer__init_args__eps", 1e-6, "eps: 1e-08 in the checkpoint, 1e-06 from now on"),
        ("model__optimizer__init_args__fused", True, "fused: null in the checkpoint, True from now on"),
        ("model__policy__lr_scale", {"vision": 0.1}, "model.policy.lr_scale.vision: not given in the checkpoint, 0.1"),
        (
            "model__lr_scheduler",
            {"class_path": "torch.optim.lr_scheduler.LinearLR", "init_args": {"total_iters": 5}},
            "model.lr_scheduler: null in the checkpoint, torch.optim.lr_scheduler.LinearLR from now on",
        ),
        ("model__objective__init_args__clip_high", 0.4, "clip_high: 0.3 in the checkpoint, 0.4 from now on"),
        ("model__reward__min_reasoning", 3, "model.reward.min_reasoning: 0 in the checkpoint, 3 from now on"),
        ("model__rollout__top_p", 0.9, "model.rollout.top_p: 1.0 in the checkpoint, 0.9 from now on"),
        ("data__init_args__val_per_task", 3, "data.init_args.val_per_task: 120 in the checkpoint, 3 from now on"),
        ("data__init_args__tasks", {"ocr": {"length": None}}, "data.init_args.tasks: null in the checkpoint"),
        ("trainer__devices", 2, "trainer.devices: 1 in the checkpoint, 2 from now on"),
        ("trainer__precision", "bf16-mixed", "trainer.precision: 32-true in the checkpoint, bf16-mixed from now on"),
        ("trainer__gradient_clip_val", None, "trainer.gradient_clip_val: 1.0 in the checkpoint, null from now on"),
    ],
)
def test_what_acts_is_named(default: dict[str, Any], key: str, value: Any, says: str) -> None:
    (line,) = lines(default, changed(default, **{key: value}), inside=True)
    assert says in line


def test_what_follows_another_key_is_not_named_again(default: dict[str, Any]) -> None:
    """``LengthCurriculum.rollouts`` and three more keys refer to the schedule."""
    now = changed(default, schedule__rollouts=200, schedule__validate_every=10)
    assert len(find_changes(default, now)) > 2
    assert [line.split(":")[0] for line in lines(default, now)] == ["schedule.rollouts", "schedule.validate_every"]


def test_callbacks_are_compared_by_class_and_not_by_place(default: dict[str, Any]) -> None:
    now = copy.deepcopy(default)
    callbacks = now["trainer"]["callbacks"]
    callbacks.insert(0, {"class_path": "my.Own", "init_args": {"size": 3}})
    callbacks[:] = [part for part in callbacks if not part["class_path"].endswith("BandPlots")]
    next(part for part in callbacks if part["class_path"].endswith("EntropyBounds"))["init_args"]["patience"] = 3
    assert lines(default, now, inside=True) == [
        "trainer.callbacks.Own: not given in the checkpoint, my.Own from now on",
        "trainer.callbacks.EntropyBounds.init_args.patience: 10 in the checkpoint, 3 from now on",
        "trainer.callbacks.BandPlots: lit_g2rpo.callbacks.BandPlots in the checkpoint, not given from now on",
    ]
    # and the arguments of one's own
    other = copy.deepcopy(now)
    other["trainer"]["callbacks"][0]["init_args"]["size"] = 4
    assert lines(now, other) == ["trainer.callbacks.Own.init_args.size: 3 in the checkpoint, 4 from now on"]


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("model__optimizer__class_path", "torch.optim.SGD", "model.optimizer.class_path is torch.optim.AdamW in"),
        ("model__policy__freeze", ["vision"], "model.policy.freeze is [] in the checkpoint and ['vision'] here"),
        ("model__policy__lora", {"rank": 4}, "model.policy.lora is null in the checkpoint"),
        ("model__policy__dtype", "bfloat16", "model.policy.dtype is float32 in the checkpoint and bfloat16 here"),
        ("model__update__microbatches", 3, "makes 3 optimizer steps of a rollout and not 2"),
        ("model__update__epochs", 2, "makes 4 optimizer steps of a rollout and not 2"),
        ("trainer__accumulate_grad_batches", 2, "makes 1 optimizer steps of a rollout and not 2"),
    ],
)
def test_what_the_state_does_not_fit_is_refused(default: dict[str, Any], key: str, value: Any, says: str) -> None:
    with pytest.raises(UserError) as error:
        lines(default, changed(default, **{key: value}), False, *(pattern for pattern, _ in TABLE))
    assert says in str(error.value)
    assert "start a new run from these weights: export --output DIR, then fit --model.policy.path DIR" in str(
        error.value
    )


@pytest.mark.parametrize(
    ("key", "value", "asked"),
    [
        ("seed_everything", 3, "seed_everything"),
        ("model__objective", {"class_path": "lit_g2rpo.objectives.GRPO", "init_args": {}}, "model.objective"),
        ("model__policy__path", "other", "model.policy.path"),
        ("data", {"class_path": "lit_g2rpo.data.JsonPrompts", "init_args": {"train": "a.jsonl"}}, "data"),
        ("data__init_args__train_per_task", 5, "data.init_args.train_per_task"),
        ("data__init_args__seed", 5, "data.init_args.seed"),
    ],
)
def test_what_makes_another_run_is_asked_for(default: dict[str, Any], key: str, value: Any, asked: str) -> None:
    now = changed(default, **{key: value})
    with pytest.raises(
        UserError, match=f"makes it a different run: add --change {asked} to allow it, or start a new run"
    ):
        lines(default, now)
    (line,) = lines(default, now, False, asked)
    assert line.startswith(asked)
    # a group that it belongs to does as well
    assert lines(default, now, False, asked.split(".")[0]) == [line]


def test_all_that_is_to_be_asked_for_is_named_at_once(default: dict[str, Any]) -> None:
    now = changed(default, seed_everything=3, model__policy__path="other")
    with pytest.raises(UserError, match=r"--change seed_everything,model\.policy\.path to allow it"):
        lines(default, now)
    with pytest.raises(UserError, match=r"--change seed_everything,model\.policy\.path to allow it"):
        lines(default, now, False, "seed_everything")
    assert len(lines(default, now, False, "seed_everything", "model.policy.path")) == 2


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model__rollout__group_size", 4),
        ("model__rollout__temperature", 0.7),
        ("data__init_args__max_completion_tokens", 8),
        ("data__init_args__mixture", {"alpha": 0.5}),
    ],
)
def test_what_a_rollout_was_sampled_with_changes_between_two(default: dict[str, Any], key: str, value: Any) -> None:
    now = changed(default, **{key: value})
    assert len(lines(default, now)) == 1
    with pytest.raises(UserError, match="the checkpoint was saved within a rollout"):
        lines(default, now, inside=True)


def test_more_microbatches_of_as_many_steps_act_between_rollouts(default: dict[str, Any]) -> None:
    now = changed(default, model__update__microbatches=4, trainer__accumulate_grad_batches=2)
    assert len(lines(default, now)) == 2


def test_one_folder_by_two_names_is_no_change(default: dict[str, Any], tmp_path: Path) -> None:
    Path("policy").mkdir()
    was = changed(default, model__policy__path="policy")
    assert lines(was, changed(default, model__policy__path=str(tmp_path / "policy"))) == []


def test_the_table_is_documented() -> None:
    text = (ROOT / "docs" / "reliability.md").read_text()
    for pattern, _ in TABLE[:-1]:
        assert f"`{pattern}`" in text, pattern


@pytest.mark.parametrize("name", RECIPES)
def test_a_recorded_recipe_moves_as_the_recipe_does(name: str, tmp_path: Path) -> None:
    """``--name``, ``--seed_everything`` and the schedule move on a run's config all that they move on the recipe."""

    def composed(path: Path, *words: str) -> TrainerCLI:
        return Composed("fit", ["--config", str(path), *words])

    def dumped(cli: TrainerCLI) -> Any:
        return yaml.safe_load(cli.parser.dump(cli.config, skip_validation=True, skip_unset=False))["fit"]

    given = ["--model.update.epochs", "2", "--ckpt_path", "last"]
    record = tmp_path / "config.yaml"
    record.write_text(yaml.safe_dump(composed(CONFIGS / name, *given).save_config_kwargs["recipe"], sort_keys=False))
    assert "ckpt_path" not in record.read_text()
    moved = ["--name", "mine", "--seed_everything", "7", "--schedule.rollouts", "9", "--schedule.validate_every", "3"]
    again, fresh = composed(record, *moved), composed(CONFIGS / name, *given[:2], *moved)
    one, other = dumped(again), dumped(fresh)
    for section in ("name", "seed_everything", "schedule", "model", "data", "trainer"):
        assert one[section] == other[section], section
    config = again.config["fit"]
    assert config.name == "mine"
    assert config.model.rollout.seed == 7
    # and the record of the record is the same
    assert again.save_config_kwargs["recipe"] == fresh.save_config_kwargs["recipe"]
