"""The package from Python: its names, its defaults, and what it says to mistakes."""

import ast
import importlib
import tomllib
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import pytest
import torch
import yaml
from helpers.build import trainer
from helpers.paths import CONFIGS, ROOT
from lightning.pytorch.strategies import FSDPStrategy
from torch.utils.data import DataLoader

import lit_g2rpo
from lit_g2rpo import (
    G2RPO,
    G2RPOModule,
    JsonPrompts,
    MiniPrompts,
    Objective,
    PolicyConfig,
    Prompt,
    PromptData,
    RolloutConfig,
    Task,
    UserError,
    default_callbacks,
)
from lit_g2rpo.callbacks import Alarms, RolloutCheckpoint
from lit_g2rpo.training.settings_checks import check_strategy
from lit_g2rpo.training.table import COLUMNS, build_table

MINI = PolicyConfig("package:lit_g2rpo.mini/weights")


def stub() -> dict[str, str]:
    """Where each public name comes from, as type checkers read it."""
    tree = ast.parse((ROOT / "lit_g2rpo" / "__init__.pyi").read_text())
    found = {}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                assert alias.asname == alias.name, "only such an import makes a name public to type checkers"
                found[alias.name] = ".".join(filter(None, ("lit_g2rpo", node.module)))
    return found


def test_every_public_name_is_what_its_place_holds() -> None:
    places = stub()
    assert sorted(places) == sorted(dir(lit_g2rpo)) == sorted(lit_g2rpo.__all__)
    for name, place in places.items():
        home = importlib.import_module(place)
        assert getattr(lit_g2rpo, name) is getattr(home, name)


def test_the_version_is_written_once() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" not in project["project"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "lit_g2rpo.__version__"}
    assert lit_g2rpo.__version__.count(".") == 2


def test_a_misspelled_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="G2RPOModul"):
        lit_g2rpo.G2RPOModul  # type: ignore[attr-defined]  # noqa: B018


def test_the_default_callbacks_are_those_of_the_recipes() -> None:
    for name in ("default", "large_batch"):
        listed = yaml.safe_load((CONFIGS / "trainer" / f"{name}.yaml").read_text())["callbacks"]
        names = [entry["class_path"].rpartition(".")[2] for entry in listed]
        assert [type(callback).__name__ for callback in default_callbacks()] == ["RunFolder", *names]


def test_own_callbacks_take_the_place_of_those_of_their_class() -> None:
    class Stricter(Alarms):
        pass

    keeper, stricter, bare = RolloutCheckpoint(every_rollouts=3), Stricter(), L.Callback()
    made = default_callbacks(bare, keeper, stricter)
    assert [type(callback) for callback in made[:-2]] == [type(callback) for callback in default_callbacks()]
    assert made[-3:] == [keeper, bare, stricter]
    with pytest.raises(UserError, match=r"default_callbacks was given <class .*RolloutCheckpoint'>; give objects"):
        default_callbacks(RolloutCheckpoint)  # type: ignore[arg-type]


def test_policy_and_objective_are_all_that_must_be_given() -> None:
    module = G2RPOModule(MINI, G2RPO())
    weight = torch.nn.Parameter(torch.ones(1))
    [group] = module.optimizer([weight]).param_groups
    paper = yaml.safe_load((CONFIGS / "openvlthinker_v2.yaml").read_text())["model"]["optimizer"]["init_args"]
    assert {key: group[key] for key in paper} == {**paper, "betas": tuple(paper["betas"])}
    assert module.rollout == RolloutConfig()
    with pytest.raises(AttributeError, match="cannot assign to field"):
        module.rollout.prompts = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"policy": "Qwen/Qwen3-VL-2B-Instruct"},
            "model.policy is 'Qwen/Qwen3-VL-2B-Instruct'; give an object of lit_g2rpo.PolicyConfig",
        ),
        ({"objective": G2RPO}, "model.objective is the class G2RPO; give an object of it: G2RPO(...)"),
        ({"objective": "grpo"}, "model.objective is 'grpo'; give an object of lit_g2rpo.Objective"),
        ({"rollout": {"prompts": 3}}, "model.rollout is {'prompts': 3}; give an object of lit_g2rpo.RolloutConfig"),
        (
            {"optimizer": torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)},
            "model.optimizer is an object of SGD; give a function of the weights, which are loaded later",
        ),
    ],
)
def test_a_wrong_part_of_the_module_is_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        G2RPOModule(**{"policy": MINI, "objective": G2RPO()} | arguments)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ({"ocr": Task("ocr")}, "data.tasks.ocr is Task(name='ocr'"),
        (["ocr"], "data.tasks is ['ocr']; give a mapping of task names, such as {'ocr': {}}"),
        ({"ocr": {"reward": len}}, "data.tasks.ocr.reward is <built-in function len>; give an import path"),
        ({"ocr": {"lenght": [1, 2, 3, 4]}}, "data.tasks.ocr.lenght: unknown key; known: length, entropy"),
    ],
)
def test_a_wrong_task_is_named(tasks: Any, message: str) -> None:
    with pytest.raises(UserError) as error:
        JsonPrompts(tasks=tasks)
    assert str(error.value).startswith(message)


def test_an_objective_without_advantages_is_named() -> None:
    class Empty(Objective):
        pass

    with pytest.raises(UserError, match="Empty has neither an estimator nor advantages"):
        G2RPOModule(MINI, Empty())


def test_an_estimator_of_another_form_is_named() -> None:
    def without_valid(rewards: Any, group_ids: Any, task_ids: Any) -> Any:
        return rewards

    def with_valid(rewards: Any, group_ids: Any, task_ids: Any, *, valid: Any = None) -> Any:
        return rewards

    wanted = (
        r"give one of the form staticmethod\(function\), with function\(rewards, group_ids, task_ids, \*, valid=None"
    )
    for estimator in (staticmethod(without_valid), with_valid):
        own = type("Own", (Objective,), {"estimator": estimator})
        with pytest.raises(UserError, match=r"model\.objective Own has an estimator\(.*; " + wanted):
            G2RPOModule(MINI, own())
    G2RPOModule(MINI, type("Own", (Objective,), {"estimator": staticmethod(with_valid)})())


def test_advantages_of_another_shape_are_named() -> None:
    class Short(Objective):
        def advantages(self, batch: Any) -> Any:
            return batch.rewards[:2]

    columns = {name: torch.zeros(3, 2) for name in (*COLUMNS, "reward")}
    with pytest.raises(UserError, match=r"of model\.objective Short have shape \[2\]; return one for .*: \[6\]"):
        build_table(columns, torch.ones(3, dtype=torch.bool), Short(), {})


class Described(list[Any]):
    def task_names(self) -> list[str]:
        return ["ocr"] * len(self)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (None, "Given has no train_dataset; write it, or take JsonPrompts for files of rows"),
        ([1], "a dataset of Given is a list, which has no task_names(); give an object with it"),
        (Described([{"id": 1}] * 48), "of Described is a dict; give a lit_g2rpo.Prompt"),
        (
            Described([Prompt("1", "chart_figure_qa", "math", [], [], {})] * 48),
            "of Described has task 'chart_figure_qa', but its task_names() says 'ocr'; give both the same",
        ),
    ],
)
def test_a_wrong_data_source_is_named(tmp_path: Path, rows: Any, message: str) -> None:
    class Given(PromptData):
        def val_dataset(self) -> None:
            return None

    if rows is not None:
        Given.train_dataset = lambda self: rows  # type: ignore[method-assign]
    with pytest.raises(UserError) as error:
        trainer(tmp_path, 1).fit(G2RPOModule(MINI, G2RPO()), datamodule=Given(max_completion_tokens=8))
    assert message in str(error.value)


def test_files_may_be_paths(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"problem": "What is 1 + 1?", "answer": "2", "problem_type": "numerical"}\n')
    for files in (file, [file]):
        data = JsonPrompts(train=files, image_root=tmp_path, defaults={"task_type": "ocr"})
        data.setup("fit")
        assert len(data.train_dataset()) == 1


def test_a_run_without_prompts_is_told_what_to_give(tmp_path: Path) -> None:
    module = G2RPOModule(MINI, G2RPO())
    wanted = r"give a PromptData: trainer\.fit\(module, datamodule=JsonPrompts\(\.\.\.\)\)"
    with pytest.raises(UserError, match=f"the trainer was given no datamodule; {wanted}"):
        trainer(tmp_path, 1).fit(module, DataLoader([1]))
    with pytest.raises(UserError, match=f"the trainer was given a Plain; {wanted}"):
        trainer(tmp_path, 1).fit(module, datamodule=Plain())


class Plain(L.LightningDataModule):
    def train_dataloader(self) -> Any:
        return DataLoader([1])


class Foreign(MiniPrompts):
    """A source whose rows have tasks that it does not name."""

    def default_tasks(self) -> dict[str, Task]:
        return {"ocr": Task("ocr")}


def test_rows_of_an_unknown_task_are_named(tmp_path: Path) -> None:
    assert issubclass(Foreign, PromptData)
    with pytest.raises(UserError, match=r"rows of task 'chart_figure_qa', which is not known; known: ocr; add it"):
        trainer(tmp_path, 1).fit(G2RPOModule(MINI, G2RPO()), datamodule=Foreign())


def test_strategies_that_cannot_train_a_policy_are_refused() -> None:
    with pytest.raises(UserError, match=r"own FSDPStrategy, .*give lit_g2rpo\.strategies\.FSDP2Strategy\(\)"):
        check_strategy(FSDPStrategy())


def test_validate_returns_what_it_found(random_folder: str, tmp_path: Path) -> None:
    module = G2RPOModule(PolicyConfig(random_folder), G2RPO(), partial(torch.optim.AdamW, lr=1e-3))
    [found] = trainer(tmp_path, 1, limit_val_batches=1.0).validate(
        module, datamodule=MiniPrompts(val_per_task=1, max_completion_tokens=2), verbose=False
    )
    assert found["val/accuracy"] == 0
    assert found["val/length/ocr"] == 2
