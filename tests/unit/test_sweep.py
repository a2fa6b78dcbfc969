"""The command line of a sweep: its runs, and one clear line for what cannot be run."""

from pathlib import Path

import pytest
import yaml
from helpers.paths import CONFIGS

from lit_g2rpo.__main__ import main
from lit_g2rpo.cli.sweep.grid import read_grid, short_keys, short_value
from lit_g2rpo.cli.sweep.processes import reason
from lit_g2rpo.cli.sweep.progress import CurveTail
from lit_g2rpo.cli.sweep.runs import SweepRun, check_recipes, command, compose
from lit_g2rpo.errors import UserError

RECIPE = ["--config", str(CONFIGS / "g2rpo.yaml")]
CLIP = "model.objective.clip_low"


def test_every_combination_has_a_run_for_each_seed():
    words = ["--vary", CLIP, "0.1", "0.2", "--schedule.rollouts", "7", "--vary", "model.objective.mean", "token"]
    grid = read_grid([*RECIPE, *words, "--seeds", "2", "--parallel", "3", "--output", "somewhere"])
    assert (grid.seeds, grid.parallel, grid.output) == ((0, 1), 3, Path("somewhere"))
    names = [grid.name(cell, seed) for cell in grid.cells for seed in grid.seeds]
    assert names == [f"clip_low={clip},mean=token,seed={seed}" for clip in ("0.1", "0.2") for seed in (0, 1)]
    # a value stands where its key was varied, so that what comes behind it still changes it
    assert grid.cells[1].words == (
        *RECIPE,
        f"--{CLIP}",
        "0.2",
        "--schedule.rollouts",
        "7",
        "--model.objective.mean",
        "token",
    )


def test_names_are_short_and_fit_a_file():
    assert short_keys(["model.objective", "model.optimizer.lr", "seed_everything"]) == ["objective", "lr", "seed"]
    assert short_keys(["model.policy.path", "data.path"]) == ["policy.path", "data.path"]
    assert [short_value(value) for value in ("a/b/grpo.yaml", "torch.optim.AdamW", "1e-4", "0.25", "[1, 2]")] == [
        "grpo",
        "AdamW",
        "1e-4",
        "0.25",
        "_1_2_",
    ]


REFUSED = [
    ([], "sweep: nothing varies; give --seeds N"),
    (["--seeds", "0"], "--seeds is 0; give the number of seeds, 1 or more"),
    (["--seeds", "x"], "--seeds is x; give the number"),
    (["--seeds"], "--seeds has no value"),
    (["--seeds", "2", "--parallel", "0"], "--parallel is 0; give the number of runs at a time"),
    (["--vary"], "--vary has no key"),
    (["--vary", CLIP], f"--vary {CLIP} has no values"),
    ([f"--vary={CLIP}", "0.1"], f"--vary={CLIP}: give the key and its values as words"),
    (["--vary", CLIP, "0.1", "0.1"], f"--vary {CLIP} has 0.1 twice"),
    (["--vary", CLIP, "0.1", "0.10"], "clip_low=0.1 and clip_low=0.10 are the same run"),
    (["--vary", CLIP, "0.1", "--vary", "model.objective.init_args.clip_low", "0.2"], "is given twice"),
    (["--vary", f"{CLIP}s", "0.1"], f"unknown key {CLIP}s; did you mean {CLIP}?"),
    (["--vary", CLIP, "0.1", "-1"], f"{CLIP} is -1.0; it must be in [0, 1)"),
    (["--vary", CLIP, "0.1", "much"], f"{CLIP} is much; expected float"),
    (["--vary", "model.rollout.prompts", "18", "17"], "model.rollout.prompts is 17; it must be a multiple of 2"),
    (["--vary", "schedule.rollouts", "5", "0"], "schedule.rollouts is 0"),
    (["--vary", "model.objective", "nope.yaml"], "model.objective: no such file: nope.yaml"),
    (["--vary", "model.objective", "a/grpo.yaml", "b/grpo.yaml"], "a/grpo.yaml and b/grpo.yaml would have one name"),
    (["--vary", "model.objective", "x" * 300], "is too long for the name of a run"),
    (["--seeds", "2", "--vary", "seed_everything", "1"], "--seeds N stands for --vary seed_everything 0 1 ..."),
    (["--seeds", "2", "--seed_everything", "1"], "--seed_everything is given, and --seeds N has others"),
    (["--vary", CLIP, "0.1", f"--{CLIP}", "0.2"], f"--{CLIP} is both given and varied"),
    (["--seeds", "2", "--name", "x"], "--name sets the folder of a run"),
    (["--vary", "name", "x", "y"], "--vary name: it sets the folder of a run"),
    (["--seeds", "2", "--ckpt_path", "last"], "--ckpt_path: the runs of a sweep are new"),
    (["--seeds", "2", "--more", "3"], "--more is an option of fit, not of sweep"),
    (["--seeds", "2", "--trainer.logger", "true"], "trainer.logger: the files of a run would lie in"),
    (["--seeds", "2", "--output", "/proc/x"], "/proc/x/recipes cannot be written"),
    (["--seeds", "2", "--output", str(CONFIGS)], "exists and is not the folder of a sweep; give a new folder"),
    (
        [
            "--seeds",
            "2",
            "--data",
            str(CONFIGS / "data/files.yaml"),
            "--data.train",
            "no.jsonl",
            "--data.image_root",
            ".",
        ],
        "no.jsonl",
    ),
]


@pytest.mark.parametrize(("words", "says"), REFUSED, ids=[" ".join(words)[:60] for words, _ in REFUSED])
def test_what_cannot_be_run_is_one_line_before_the_first_run(capsys, words, says):
    assert main(["sweep", *RECIPE, *words]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    assert says in line
    assert not Path("runs").exists()


@pytest.fixture
def written():
    """The recipes of a sweep of two seeds and two values, in its folder."""

    def write(*words):
        grid = read_grid([*RECIPE, "--seeds", "2", *words])
        runs = compose(grid)
        for run in runs:
            run.recipe_file.parent.mkdir(parents=True, exist_ok=True)
            run.recipe_file.write_text(yaml.safe_dump(run.recipe))
        return runs

    return write


def checked(*words):
    grid = read_grid([*RECIPE, *words])
    runs = compose(grid)
    check_recipes(grid, runs)
    return runs


def test_a_run_has_its_own_seed_and_folder(written):
    runs = written("--vary", CLIP, "0.1", "0.3")
    assert [(run.name, run.seed, run.values) for run in runs] == [
        (f"clip_low={clip},seed={seed}", seed, (clip,)) for clip in ("0.1", "0.3") for seed in (0, 1)
    ]
    last = runs[-1].recipe
    assert (last["seed_everything"], last["model"]["objective"]["init_args"]["clip_low"]) == (1, 0.3)
    logger = last["trainer"]["logger"]["init_args"]
    assert (logger["save_dir"], logger["name"], logger["version"]) == ("runs/sweep", "", "clip_low=0.3,seed=1")
    # what follows from the seed still does
    assert last["data"]["init_args"]["seed"] == "${...seed_everything}"
    assert command(runs[-1]) == ["fit", "--config", "runs/sweep/recipes/clip_low=0.3,seed=1.yaml"]


def test_a_sweep_may_grow_but_not_become_another(written):
    written("--vary", CLIP, "0.1", "0.3")
    assert len(checked("--seeds", "3", "--vary", CLIP, "0.1", "0.3", "0.25")) == 9
    # a key more, or the place of the folder, makes no other recipe
    checked("--seeds", "2", "--vary", CLIP, "0.3", "--vary", "schedule.rollouts", "150", "160")
    with pytest.raises(UserError, match=r"another recipe: schedule.rollouts is 150 in .* and 9 here; give another"):
        checked("--seeds", "2", "--vary", CLIP, "0.1", "0.3", "--schedule.rollouts", "9")
    with pytest.raises(UserError, match=f"another recipe: {CLIP.replace('objective', 'objective.init_args')} is"):
        checked("--seeds", "2")
    Path("runs/sweep/recipes/clip_low=0.1,seed=0.yaml").write_text("[")
    with pytest.raises(UserError, match=r"seed=0\.yaml is not a recipe; remove it"):
        checked("--seeds", "2", "--vary", CLIP, "0.1", "0.3")


def test_recipes_may_be_varied_whole(written):
    runs = written("--vary", "data.val_per_task", "3", "4")
    assert {run.recipe["data"]["init_args"]["val_per_task"] for run in runs} == {3, 4}
    grid = read_grid(["--vary", "config", *(str(CONFIGS / f"{name}.yaml") for name in ("g2rpo", "grpo"))])
    names = {run.name: run.recipe["model"]["objective"]["class_path"].rpartition(".")[2] for run in compose(grid)}
    assert names == {"config=g2rpo": "G2RPO", "config=grpo": "GRPO"}


def test_a_failure_is_told_in_the_runs_own_words():
    run = SweepRun("seed=0", Path("runs/sweep/seed=0"), (), 0, {})
    assert reason(run, -9) == "signal SIGKILL"
    run.log.parent.mkdir(parents=True)
    run.log.write_text("started\nerror: data.train is no file\nlast line\n\n")
    assert reason(run, 2) == "error: data.train is no file (exit code 2)"
    run.log.write_text("Traceback\nValueError: a fault\n\n")
    assert reason(run, -11) == "ValueError: a fault (signal SIGSEGV)"


def test_points_are_read_once_each_and_a_resumed_run_starts_anew(tmp_path):
    path = tmp_path / "curves.jsonl"
    tail = CurveTail(path)
    assert tail.read() == []
    path.write_text('{"rollout": 1}\n{"rollout": 2}\n{"rol')
    assert [point["rollout"] for point in tail.read()] == [1, 2]
    assert tail.read() == []
    path.write_text('{"rollout": 1}\n{"rollout": 2}\n{"rollout": 3}\n')
    assert [point["rollout"] for point in tail.read()] == [3]
    path.write_text('{"rollout": 1}\n')
    assert [point["rollout"] for point in tail.read()] == [1]
