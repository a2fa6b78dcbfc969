"""Recipes and fragments are found in the package from any folder, on the command line and inside recipes."""

import re
from pathlib import Path
from typing import Any

import pytest
from helpers.composed import FRAGMENTS, RECIPES, Composed
from helpers.paths import CONFIGS

from lit_g2rpo.__main__ import main
from lit_g2rpo.cli.line import read_line
from lit_g2rpo.cli.packaged import located, located_values, packaged
from lit_g2rpo.errors import UserError


def composed(*words: str) -> dict[str, Any]:
    """The configuration of a command line as people give it, without the paths of its recipes."""
    config: Any = Composed("fit", read_line("fit", list(words)).words).config.fit.clone()
    config.pop("config")
    found: dict[str, Any] = config.as_dict()
    return found


def test_the_package_holds_what_people_edit() -> None:
    assert packaged() == RECIPES + FRAGMENTS
    for name in packaged():
        assert Path(located(f"package:{name}")).samefile(CONFIGS / name)


def test_other_names_are_left_alone() -> None:
    for name in ("configs/g2rpo.yaml", "package:lit_g2rpo.mini/weights", "package.module.Name", ""):
        assert located(name) == name
    values = {"a": ["package:model/mini.yaml", 1, None], "path": "package:lit_g2rpo.mini/weights"}
    assert located_values(values) == values | {"a": [located("package:model/mini.yaml"), 1, None]}


def test_a_command_line_names_them_from_any_folder() -> None:
    grpo = ["--model.objective", "package:objective/grpo.yaml", "--data=package:data/mini.yaml"]
    packaged_words = composed("--config", "package:g2rpo.yaml", *grpo)
    assert packaged_words == composed("--config", str(CONFIGS / "grpo.yaml"), "--name", "g2rpo")
    assert packaged_words["model"]["objective"]["class_path"] == "lit_g2rpo.objectives.GRPO"


def test_a_recipe_of_the_users_names_them() -> None:
    text = (CONFIGS / "g2rpo.yaml").read_text()
    for part in ("model/", "objective/", "data/", "trainer/"):
        assert f": {part}" in text
        text = text.replace(f": {part}", f": package:{part}")
    Path("mine.yaml").write_text(text)
    assert composed("--config", "mine.yaml") == composed("--config", str(CONFIGS / "g2rpo.yaml"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["--config", "package:g2rp.yaml"],
            "package:g2rp.yaml: the package has no such file; did you mean package:g2rpo",
        ),
        (
            ["--config", "package:g2rpo"],
            "--config: no such file: package:g2rpo; the package has it: package:g2rpo.yaml",
        ),
        (["--config", "configs/g2rpo.yaml"], "configs/g2rpo.yaml; the package has it: package:g2rpo.yaml"),
        (
            ["--config", "mine.yaml"],
            "mine.yaml: model.objective: no such file: objective/grpo.yaml; the package has it: p",
        ),
        (
            ["--model.policy", "package:objective/grpo.yaml"],
            "--model.policy package:objective/grpo.yaml: this file fills",
        ),
        (["--data", "package:zzzzzzzzzzz.yaml"], "no such file; python -m lit_g2rpo recipes lists them"),
    ],
)
def test_a_name_that_is_not_there_says_which_is(words: list[str], said: str) -> None:
    Path("mine.yaml").write_text("model: {objective: objective/grpo.yaml}")
    with pytest.raises(UserError) as error:
        read_line("fit", words)
    assert said in str(error.value)


def test_the_list_has_the_words_that_name_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(packaged())
    for line in lines:
        words = line.split()[:2]
        read_line("fit", ["--config", "package:g2rpo.yaml", *words])
        assert line.partition(words[1])[2].strip()


def test_copied_recipes_work_where_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "--copy", "mine/configs"]) == 0
    copied = Path("mine/configs")
    assert sorted(path.relative_to(copied).as_posix() for path in copied.rglob("*.yaml")) == sorted(packaged())
    assert composed("--config", "mine/configs/g2rpo.yaml") == composed("--config", "package:g2rpo.yaml")
    assert f"fit --config {copied / 'g2rpo.yaml'}" in capsys.readouterr().out
    assert main(["recipes", "--copy", "mine"]) == 2
    assert capsys.readouterr().err == "error: --copy mine exists and is not empty; give a new folder\n"


@pytest.mark.parametrize("verb", ["fit", None])
def test_every_verb_shows_all_its_keys_and_no_completion_of_the_shell(
    verb: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        Composed(verb, ["--help=all"])
    shown = capsys.readouterr().out
    assert "--trainer.gradient_clip_val" in shown
    assert set(re.findall(r"--print_\w+", shown)) == {"--print_config"}
    with pytest.raises(UserError, match=r"^unknown key print_shtab; this level has .*seed_everything, trainer"):
        Composed(verb, ["--print_shtab", "bash"])
