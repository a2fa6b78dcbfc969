"""The command line: quick help, and one clear line for every mistake."""

import shutil
import sys
from pathlib import Path

import pytest
import torch
import yaml
from helpers.paths import CONFIGS, ROOT
from helpers.processes import Commands
from helpers.refused import refused

from lit_g2rpo.__main__ import VERBS, main
from lit_g2rpo.cli.checkpoints import find_checkpoint, run_folder_of, version_of
from lit_g2rpo.errors import UserError
from lit_g2rpo.training.schedule import check_sizes, log_every_n_steps, max_steps, val_check_interval

RECIPE = ["--config", str(ROOT / "configs" / "g2rpo.yaml")]


LIGHT = (
    "import sys; from lit_g2rpo.__main__ import main; code = main(sys.argv[1:]);"
    "heavy = {'torch', 'lightning', 'transformers', 'numpy'} & set(sys.modules);"
    "assert not heavy, heavy; sys.exit(code)"
)


@pytest.mark.parametrize("words", [["--help"], ["fit", "--help"], ["export", "-h"]])
def test_help_imports_nothing_heavy(commands: Commands, words: list[str]) -> None:
    shown = commands.python("-c", LIGHT, *words)
    for verb in VERBS if words == ["--help"] else ["--schedule.rollouts", "--model.rollout.group_size"]:
        assert verb in shown


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["fit", "--config", "nope.yaml"], "error: --config: no such file: nope.yaml"),
        (["plan", "--config=nope.yaml"], "error: --config: no such file: nope.yaml"),
        (["fit"], "error: fit needs a recipe: give --config configs/g2rpo.yaml, or an existing run, --run "),
        (["export", "--output", "here"], "error: export needs a recipe: give --config"),
        (["fit", "--config"], "error: --config has no value"),
        (["fit", "--config", str(CONFIGS)], f"error: --config: {CONFIGS} is not a file"),
        (["fit", "--config", __file__], f"error: --config {__file__} is not YAML: "),
        (["fit", *RECIPE, "--ckpt_path", "nope.ckpt"], "error: --ckpt_path nope.ckpt: no such file"),
        (["fit", "--run", "nope"], "error: --run nope: no such folder"),
        (["fit", *RECIPE, "--data", __file__], "is a file of rows"),
        (["test", *RECIPE, "--trainer", str(CONFIGS / "data" / "mini.yaml")], "this file fills data; give it there"),
    ],
)
def test_a_wrong_file_is_found_before_anything_heavy_is_imported(
    commands: Commands, words: list[str], says: str
) -> None:
    done = commands.run(sys.executable, "-c", LIGHT, *words)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.strip().splitlines()
    assert says in line


def test_every_verb_has_a_module_and_a_function() -> None:
    for target, summary in VERBS.values():
        module, function = target.split(":")
        path = ROOT.joinpath(*module.split(".")).with_suffix(".py")
        assert f"def {function}(" in path.read_text()
        assert summary


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["fti", *RECIPE], "unknown verb 'fti'; did you mean fit?"),
        (["-c", "x.yaml", "fit"], "the verb comes first"),
        (["fit", *RECIPE, "--model.rollout.group_sise", "4"], "did you mean model.rollout.group_size?"),
        (["fit", *RECIPE, "--modle.rollout.group_size", "4"], "did you mean model.rollout.group_size?"),
        (["fit", *RECIPE, "--group_size", "4"], "did you mean model.rollout.group_size?"),
        (["fit", *RECIPE, "--model.objective.clip_lo", "0.1"], "did you mean model.objective.clip_low?"),
        (["fit", *RECIPE, "--data.val_per_taks", "3"], "did you mean data.val_per_task?"),
        (["fit", *RECIPE, "--model.rollout.group_size", "four"], "model.rollout.group_size is four; expected int"),
        (["test", *RECIPE, "--limit", "x"], "data.limit is x; expected int"),
        (["fit", *RECIPE, "--data.mixture.alpha", "x"], "data.mixture.alpha is x; expected float"),
        (["fit", *RECIPE, "--model.optimizer.init_args.lr", "x"], "model.optimizer.lr is x; expected float"),
        (["fit", *RECIPE, "--trainer.accelerator", "x"], "trainer: You selected an invalid accelerator name"),
        (
            ["fit", *RECIPE, "--ckpt_path", str(CONFIGS)],
            f"--ckpt_path {CONFIGS} is not an intact checkpoint: it is a folder",
        ),
        (
            ["fit", *RECIPE, "--trainer.logger.init_args.save_dir", "/proc/x"],
            "/proc/x/g2rpo/version_0 cannot be written",
        ),
        (["export", *RECIPE, "--ckpt_path", __file__, "--output", "/proc/x"], "/proc/x cannot be written"),
        (["fit", "--config", str(ROOT)], f"--config: {ROOT} is not a file"),
        (["fit", *RECIPE, "--model.objective", "lit_g2rpo.objectives.Nope"], "has no attribute 'Nope'"),
        (["fit", *RECIPE, "--model.objective.clip_low", "-1"], "model.objective.clip_low is -1"),
        (["fit", *RECIPE, "--model.objective.mean", "x"], "mean is x; expected one of token, completion, constant"),
        (
            ["fit", *RECIPE, "--model.objective.loss", "trpo"],
            "model.objective.loss is 'trpo'; known: ppo, cispo, sapo, gspo, gspo_token; or give package.module.Name",
        ),
        (
            ["fit", *RECIPE, "--model.rollout.engine", "sglang"],
            "model.rollout.engine is 'sglang'; known: native, huggingface, demonstrations, vllm, vllm_server; or give "
            "package.module.Name",
        ),
        (
            ["fit", *RECIPE, "--model.objective.loss_options.strength", "1"],
            "model.objective.loss_options has 'strength'; known: none",
        ),
        (["fit", "--config", "nope.yaml"], "--config: no such file: "),
        (["fit", *RECIPE, "--model.policy", "nope.yaml"], "model.policy: no such file: nope.yaml"),
        (["fit", *RECIPE, "more"], "unexpected word 'more'"),
        (
            [
                "fit",
                *RECIPE,
                "--trainer",
                str(ROOT / "configs/strategy/xla_trainium.yaml"),
                "--trainer.precision=bf16-mixed",
            ],
            "trainer.precision is bf16-mixed, but g2rpo_xla only supports 32-true",
        ),
        (["fit", *RECIPE, "--trainer.max_steps", "3"], "trainer.max_steps follows from schedule.rollouts"),
        (["fit", *RECIPE, "--seed_everything", "true"], "seed_everything is true; give a whole number"),
        (["fit", *RECIPE, "--trainer.limit_train_batches", "5"], "trainer.limit_train_batches is 5; leave it out"),
        (["fit", *RECIPE, "--model.rollout.temperature=-1"], "model.rollout.temperature is -1.0; it must be 0 or more"),
        (["fit", *RECIPE, "--model.rollout.top_p", "0"], "model.rollout.top_p is 0.0; it must be above 0"),
        (["fit", *RECIPE, "--model.rollout.slots", "0"], "model.rollout.slots is 0; it must be above 0"),
        (["test", *RECIPE, "--model.evaluation.top_k=-1"], "model.evaluation.top_k is -1; it must be 0"),
        (["fit", *RECIPE, "--schedule.rollouts", "0"], "schedule.rollouts is 0; it must be 1 rollout or more"),
        (["fit", *RECIPE, "--model.rollout.group_size", "1"], "model.rollout.group_size is 1"),
        (["fit", *RECIPE, "--trainer.accumulate_grad_batches", "3"], "must be a multiple of trainer.accumulate_grad"),
        (["fit", *RECIPE, "--model.rollout.prompts", "7"], "model.rollout.prompts is 7; it must be a multiple of 2"),
        (["fit", *RECIPE, "--ckpt_path", "last"], "--ckpt_path last: no last.ckpt below runs/g2rpo"),
        (["validate", *RECIPE, "--ckpt_path", "nope.ckpt"], "--ckpt_path nope.ckpt: no such file"),
        (["fit", *RECIPE, "--model.policy.path", "./nope"], "model.policy.path './nope'"),
        (["fit", *RECIPE, "--data.tasks.ocr.reward"], "data.tasks.ocr.reward has no value"),
        (["fit", *RECIPE, "--data.tasks.ocr.lenght", "[1]"], "data.tasks.ocr.lenght: unknown key; known: length"),
        (["export", *RECIPE, "--output", "there"], "--ckpt_path is not given"),
        (
            ["fit", "--config", str(CONFIGS / "model/mini.yaml")],
            "this file fills model.policy; give it there: --model.",
        ),
        (["fit", *RECIPE, "--model.objective", str(CONFIGS / "data/mini.yaml")], "this file fills data"),
        (["fit", *RECIPE, "--model.policy", str(ROOT)], "is a folder; give a file of configs/model, or --model.policy"),
        (["fit", *RECIPE, "--run"], "--run has no value"),
        (["fit", *RECIPE, "--more", "3"], "--more continues a run; name it with --run FOLDER"),
        (["test", *RECIPE, "--more", "3"], "--more is an option of fit, not of test"),
        (["fit", "--config", "begun"], "--config: begun is not a file; for the folder of a run give --run begun"),
        (["fit", "--run", "begun", "--name", "mine"], "--name asks for another folder, but --run continues in begun"),
        (["test", "--run", "begun", "--trainer.logger.save_dir=x"], "--trainer.logger.save_dir asks for another"),
        (["fit", "--run", "there"], "--run there is not the folder of a run (it holds no config.yaml)"),
        (["fit", "--run", "begun"], "--ckpt_path last: no last.ckpt below begun"),
        (["fit", "--run", "begun", "--ckpt_path", "nope.ckpt"], "--ckpt_path nope.ckpt: no such file"),
        (
            ["fit", "--run", "begun", "--ckpt_path", "begun/broken", "--more", "0"],
            "--more is 0; give the number of rollouts",
        ),
        (
            ["fit", "--run", "begun", "--ckpt_path", "begun/broken", "--more=-1"],
            "--more is -1; give the number of rollouts",
        ),
        (
            ["fit", "--run", "begun", "--ckpt_path", "begun/broken", "--more=1", "--schedule.rollouts=4"],
            "--more and --schedule.rollouts both say how long the run is",
        ),
        (
            ["fit", "--run", "begun", "--ckpt_path", "begun/broken"],
            "--ckpt_path begun/broken is not an intact checkpoint: it is damaged",
        ),
    ],
)
def test_a_mistake_is_one_line(capsys: pytest.CaptureFixture[str], words: list[str], says: str) -> None:
    Path("there").mkdir()
    Path("begun").mkdir()
    shutil.copy(CONFIGS / "g2rpo.yaml", "begun/config.yaml")
    for part in ("data", "model", "objective", "trainer"):
        Path("begun", part).symlink_to(CONFIGS / part)
    Path("begun/broken").write_bytes(b"no checkpoint")
    assert says in refused(capsys, *words)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("model: {rollout: {group_sise: 4}}", "did you mean model.rollout.group_size?"),
        ("model: {policy: nope.yaml}", "mine.yaml: model.policy: no such file: nope.yaml"),
        (
            "trainer: begun.yaml",
            "mine.yaml: trainer: begun.yaml: this file fills data; give it there: --data begun.yaml",
        ),
        ("data: mine.jsonl", "mine.yaml: data: mine.jsonl is a file of rows"),
        ("model: [", "--config mine.yaml is not YAML: expected the node content, but found '<stream end>' in line 1"),
        ("", "--config mine.yaml has no keys"),
        ("trainer: {max_steps: 5}", "set schedule.rollouts instead"),
        ("model: {rollout: {seed: 5}}", "set seed_everything instead"),
        (
            "trainer: {callbacks: [{class_path: lit_g2rpo.callbacks.EntropyBounds, init_args: {patince: 3}}]}",
            "did you mean trainer.callbacks.patience?",
        ),
    ],
)
def test_a_mistake_in_a_file_is_one_line(capsys: pytest.CaptureFixture[str], text: str, says: str) -> None:
    Path("mine.yaml").write_text(text)
    Path("begun.yaml").write_text("# fills data: mine\nclass_path: a.B\n")
    Path("mine.jsonl").touch()
    assert says in refused(capsys, "fit", *RECIPE, "--config", "mine.yaml")


def test_a_missing_data_file_is_one_line(capsys: pytest.CaptureFixture[str], random_folder: str) -> None:
    config = Path("json.yaml")
    files = "{train: nope.json, val: nope.json, image_root: .}"
    config.write_text(f"data: {{class_path: lit_g2rpo.data.JsonPrompts, init_args: {files}}}")
    recipe = ["--config", str(ROOT / "configs" / "openvlthinker_v2.yaml")]
    strategy = ["--trainer", str(ROOT / "configs" / "strategy" / "cpu.yaml")]
    words = ["fit", *recipe, *strategy, "--config", str(config), "--model.policy.path", random_folder]
    assert "nope.json" in refused(capsys, *words)


def test_the_traceback_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIT_G2RPO_TRACEBACK", "1")
    with pytest.raises(UserError):
        main(["fit", "--config", "nope.yaml"])


def test_sizes() -> None:
    assert max_steps(10, epochs=2, microbatches=4, accumulate=2) == 40
    assert val_check_interval(5, epochs=2, microbatches=4) == 40
    assert log_every_n_steps(1, epochs=2, microbatches=4, accumulate=2) == 4


def test_the_default_rollout_can_be_spread_over_one_to_nine_devices() -> None:
    sizes = yaml.safe_load((CONFIGS / "g2rpo.yaml").read_text())["model"]
    accumulate = yaml.safe_load((CONFIGS / "trainer" / "default.yaml").read_text())["accumulate_grad_batches"]

    def fits(devices: int) -> bool:
        try:
            check_sizes(sizes["rollout"]["prompts"], devices, sizes["update"]["microbatches"], accumulate)
        except UserError:
            return False
        return True

    assert [devices for devices in range(1, 20) if fits(devices)] == list(range(1, 10))


@pytest.mark.parametrize(
    ("prompts", "ranks", "nearest"), [(7, 1, "6 or 8"), (17, 8, "16 or 18"), (15, 8, "16"), (4, 4, "8"), (0, 1, "2")]
)
def test_a_refused_size_names_the_nearest_that_fit(prompts: int, ranks: int, nearest: str) -> None:
    with pytest.raises(UserError, match=rf"prompts is {prompts}; .* multiple of 2 .*: {ranks} x 2\); give {nearest}$"):
        check_sizes(prompts, ranks, microbatches=4, accumulate=2)
    for size in map(int, nearest.split(" or ")):
        check_sizes(size, ranks, microbatches=4, accumulate=2)


def test_last_is_the_newest_of_the_experiment(tmp_path: Path) -> None:
    experiment = tmp_path / "runs" / "g2rpo"
    for number in (0, 1):
        folder = experiment / f"version_{number}" / "checkpoints"
        folder.mkdir(parents=True)
        torch.save({}, folder / "rollout=1.ckpt")
        (folder / "last.ckpt").symlink_to("rollout=1.ckpt")
    found = find_checkpoint("last", experiment)
    assert found == experiment / "version_1" / "checkpoints" / "last.ckpt"
    assert run_folder_of(found, experiment) == experiment / "version_1"
    only = find_checkpoint("last", experiment, experiment / "version_0")
    assert run_folder_of(only, experiment) == experiment / "version_0"
    assert run_folder_of(tmp_path / "other.ckpt", experiment) is None
    assert [version_of(experiment / name) for name in ("version_3", "mine")] == [3, "mine"]
