"""Every recipe composes and builds its parts; fragments say what they fill."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.composed import FRAGMENTS, KEYS, RECIPE_CALLBACKS, RECIPES, Composed, compose
from helpers.paths import CONFIGS


class UniqueKeys(yaml.SafeLoader):
    """YAML takes the last of two equal keys without a word."""


def unique_mapping(loader: UniqueKeys, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [loader.construct_object(key) for key, _ in node.value]
    doubled = {key for key in keys if keys.count(key) > 1}
    assert not doubled, f"{sorted(doubled)} given twice near line {node.start_mark.line + 1}"
    return loader.construct_mapping(node, deep=True)


UniqueKeys.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, unique_mapping)


@pytest.mark.parametrize("name", RECIPES + FRAGMENTS)
def test_no_key_is_given_twice(name: str) -> None:
    with (CONFIGS / name).open() as file:
        assert isinstance(yaml.load(file, UniqueKeys), dict)


def test_the_loader_above_sees_a_doubled_key() -> None:
    with pytest.raises(AssertionError, match="given twice"):
        yaml.load("a: {b: 1, b: 2}", UniqueKeys)


@pytest.mark.parametrize("name", FRAGMENTS)
def test_a_fragment_names_the_key_it_fills(name: str) -> None:
    first = (CONFIGS / name).read_text().splitlines()[0]
    assert first.startswith(f"# fills {KEYS[name.split('/')[0]]}: ")


@pytest.mark.parametrize("name", FRAGMENTS)
def test_only_relative_interpolation(name: str) -> None:
    text = (CONFIGS / name).read_text()
    assert text.count("${") == text.count("${.") + text.count("${oc.env:")


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_builds_its_parts(recipe: str) -> None:
    cli = Composed("fit", ["--config", str(CONFIGS / recipe), "--trainer", str(CONFIGS / "strategy/cpu.yaml")])
    built = cli.parser.instantiate(cli.config).fit
    assert built.model.rollout.seed == cli.config.fit.seed_everything
    assert built.data.max_completion_tokens > 0
    assert sorted(type(callback).__name__ for callback in built.trainer.callbacks) == sorted(RECIPE_CALLBACKS)


@pytest.mark.parametrize(
    "words",
    [
        ["--model.policy", "@model/qwen3_vl_8b.yaml", "--data", "@data/onethinker.yaml"],
        ["--model.policy", "@model/qwen3_vl_2b_lora.yaml"],
        ["--model.objective", "@objective/grpo.yaml", "--model.rollout.group_size", "16"],
    ],
)
def test_documented_command_lines(words: list[str]) -> None:
    config = compose("--config", "@g2rpo.yaml", *words, "--trainer", "@strategy/deepspeed_zero3.yaml")
    assert config.trainer.strategy.init_args.stage == 3
    if "16" in words:
        assert (config.model.rollout.group_size, config.model.objective.class_path) == (16, "lit_g2rpo.objectives.GRPO")


def test_an_override_moves_what_refers_to_it() -> None:
    config = compose("--config", "@g2rpo.yaml", "--schedule.checkpoint_every", "7", "--seed_everything", "5")
    checkpoint = next(c for c in config.trainer.callbacks if c.class_path.endswith("RolloutCheckpoint"))
    assert checkpoint.init_args.every_rollouts == 7
    assert (config.model.rollout.seed, config.data.init_args.seed) == (5, 5)


def test_a_callback_can_be_appended() -> None:
    config = compose(
        "--config", "@g2rpo.yaml", "--trainer.callbacks+", "lightning.pytorch.callbacks.LearningRateMonitor"
    )
    assert len(config.trainer.callbacks) == 14


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow", "csv"])
def test_a_logger_is_a_fragment_and_may_be_a_second_one(name: str) -> None:
    one = compose("--config", "@g2rpo.yaml", "--trainer.logger", f"@logger/{name}.yaml").trainer.logger
    two = compose("--config", "@g2rpo.yaml", "--trainer.logger+", f"@logger/{name}.yaml").trainer.logger
    assert one.class_path.lower() == f"lit_g2rpo.loggers.{name}"
    assert [logger.class_path for logger in two] == ["lit_g2rpo.loggers.TensorBoard", one.class_path]


def test_the_schedule_is_translated() -> None:
    sizes = ["--model.update.epochs", "3", "--model.update.microbatches", "4", "--trainer.accumulate_grad_batches", "2"]
    rollouts = ["--schedule.rollouts", "10", "--schedule.validate_every", "5", "--schedule.log_every", "2"]
    config = compose("--config", "@g2rpo.yaml", *sizes, *rollouts)
    assert config.trainer.max_steps == 10 * 6
    assert config.trainer.val_check_interval == 5 * 12
    assert config.trainer.log_every_n_steps == 2 * 6


@pytest.mark.parametrize("name", ["grpo", "gdpo"])
def test_a_baseline_differs_in_its_objective_alone(name: str) -> None:
    default = (CONFIGS / "g2rpo.yaml").read_text().splitlines()[1:]
    other = (CONFIGS / f"{name}.yaml").read_text().splitlines()[1:]
    changed = [b for a, b in zip(default, other, strict=True) if a != b]
    assert changed == [f"name: {name}  # runs lie in runs/{name}/version_<n>", f"  objective: objective/{name}.yaml"]


def test_the_paper_recipe_has_the_papers_values() -> None:
    config = compose("--config", "@openvlthinker_v2.yaml")
    model, objective = config.model, config.model.objective.init_args
    assert (model.rollout.prompts, model.rollout.group_size, model.rollout.temperature) == (512, 8, 1.0)
    assert config.trainer.max_steps == 4 * config.schedule.rollouts
    assert model.optimizer.class_path == "torch.optim.AdamW"
    assert (model.optimizer.init_args.lr, model.optimizer.init_args.weight_decay) == (2e-6, 0.01)
    assert (objective.clip_low, objective.clip_high, objective.dual_clip) == (0.2, 0.3, 3.0)
    assert (objective.entropy, objective.entropy_coefficient, objective.length_weight) == ("sampled", 0.02, 0.1)
    assert (config.data.init_args.max_prompt_tokens, config.data.init_args.max_completion_tokens) == (16384, 4096)
    assert (model.policy.min_pixels, model.policy.max_pixels, model.policy.freeze) == (3136, 1048576, [])


@pytest.mark.parametrize("verb", ["validate", "test", "predict"])
def test_other_verbs_take_the_same_recipe(verb: str) -> None:
    assert compose("--config", "@g2rpo.yaml", verb=verb).model.rollout.prompts > 0


def test_one_key_of_a_task_leaves_its_others(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("data: {tasks: {ocr: {length: [1, 2, 3, 4]}, mine: {entropy: [0.1, 0.2]}}}")
    words = ["--config", "@g2rpo.yaml", "--config", str(tmp_path / "mine.yaml"), "--data.tasks.ocr.reward", "a.b"]
    tasks = compose(*words, "--data.init_args.tasks.ocr.entropy=[0.2, 0.3]", "--data.tasks.new.length=null").data
    assert tasks.init_args.tasks == {
        "ocr": {"length": [1, 2, 3, 4], "reward": "a.b", "entropy": [0.2, 0.3]},
        "mine": {"entropy": [0.1, 0.2]},
        "new": {"length": None},
    }
    assert compose("--config", "@g2rpo.yaml", "--data.tasks.ocr.reward", "a.b").data.init_args.tasks == {
        "ocr": {"reward": "a.b"}
    }
