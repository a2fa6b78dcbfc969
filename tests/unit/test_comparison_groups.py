"""How runs are grouped, and what the groups are called."""

from pathlib import Path

from helpers.synthetic_runs import arm, make_run, points, read, recipe

from lit_g2rpo.comparison.groups import form_groups, short_keys


def test_seeds_and_places_make_no_group(tmp_path: Path) -> None:
    folders = arm(tmp_path, "arm", range(3))
    folders += arm(tmp_path, "other", range(3, 5), name="elsewhere", **{"data.init_args.seed": 7})
    groups, notes = form_groups(read(folders))
    assert [(group.name, len(group.runs)) for group in groups] == [("made", 5)]
    # a seed of the data that does not follow the run's own is part of what pairs
    assert list(groups[0].runs) == [(0,), (1,), (2,), (3, "data.init_args.seed=7"), (4, "data.init_args.seed=7")]
    assert notes == []


def test_groups_are_named_by_what_differs(tmp_path: Path) -> None:
    folders = arm(tmp_path, "a", range(1))
    folders += arm(tmp_path, "b", range(1), scope="group")
    folders += arm(
        tmp_path, "c", range(1), **{"model.objective.class_path": "lit_g2rpo.objectives.GRPO", "scope": None}
    )
    folders += arm(tmp_path, "d", range(1), **{"model.objective.class_path": "lit_g2rpo.objectives.GRPO", "lr": 1e-3})
    for folder in folders[2:3]:
        path = folder / "config.yaml"
        path.write_text(path.read_text().replace("      scope: null\n", ""))
    groups, _ = form_groups(read(folders))
    assert [group.name for group in groups] == [
        "G2RPO, scope=task",
        "G2RPO, scope=group",
        "GRPO, no scope",
        "GRPO, scope=task",
    ]
    scope = "model.objective.init_args.scope"
    assert [group.values[scope] for group in groups] == ["task", "group", "-", "task"]
    assert [group.values["model.objective.class_path"] for group in groups] == ["G2RPO", "G2RPO", "GRPO", "GRPO"]


def test_arguments_of_another_class_are_no_difference_of_their_own(tmp_path: Path) -> None:
    def made(place: str, **arguments: object) -> Path:
        changed = {"model.optimizer": {"class_path": arguments.pop("cls"), "init_args": arguments}}
        return make_run(tmp_path / place, recipe(0, **changed), points(0, 1))

    folders = [made("a", cls="torch.Adam", lr=0.1, eps=1.0), made("b", cls="torch.SGD", lr=0.2)]
    assert list(form_groups(read(folders))[0][0].values) == [
        "model.optimizer.class_path",
        "model.optimizer.init_args.lr",
    ]
    # two of one class differ, so it is one
    folders.append(made("c", cls="torch.Adam", lr=0.1, eps=2.0))
    groups, _ = form_groups(read(folders))
    assert [group.values["model.optimizer.init_args.eps"] for group in groups] == ["1.0", "-", "2.0"]
    # so it is if one of the class that has it does without
    folders[2] = made("d", cls="torch.Adam", lr=0.1)
    assert [group.values["model.optimizer.init_args.eps"] for group in form_groups(read(folders))[0]] == [
        "1.0",
        "-",
        "-",
    ]


def test_classes_of_one_name_are_told_apart(tmp_path: Path) -> None:
    folders = arm(tmp_path, "a", range(1))
    folders += arm(tmp_path, "b", range(1), **{"model.objective.class_path": "mine.G2RPO"})
    groups, _ = form_groups(read(folders))
    assert [group.name for group in groups] == ["lit_g2rpo.objectives.G2RPO", "mine.G2RPO"]


def test_a_reference_is_no_difference_of_its_own(tmp_path: Path) -> None:
    every = "trainer.callbacks"
    same = [{"class_path": "lit_g2rpo.callbacks.BandPlots", "init_args": {"every_rollouts": 25}}]
    other = [{"class_path": "lit_g2rpo.callbacks.BandPlots", "init_args": {"every_rollouts": 30}}]
    folders = arm(tmp_path, "a", range(1)) + arm(tmp_path, "b", range(1, 2), **{every: same})
    assert len(form_groups(read(folders))[0]) == 1
    folders += arm(tmp_path, "c", range(2), **{"schedule.validate_every": 50}) + arm(
        tmp_path, "d", range(2), **{every: other}
    )
    groups, _ = form_groups(read(folders))
    plots = "trainer.callbacks.BandPlots.init_args.every_rollouts"
    assert [(group.values["schedule.validate_every"], group.values[plots]) for group in groups] == [
        ("25", "25"),
        ("50", "50"),
        ("25", "30"),
    ]
    assert len(form_groups(read(folders), ["trainer", "schedule.*"])[0]) == 1


def test_two_runs_of_one_seed_count_once(tmp_path: Path) -> None:
    folders = arm(tmp_path, "short", range(1), rollouts=20) + arm(tmp_path, "long", range(1), rollouts=30)
    for order in (folders, folders[::-1]):
        groups, notes = form_groups(read(order))
        assert [run.rollouts for run in groups[0].runs.values()] == [30]
        assert len(notes) == 1
        assert notes[0].startswith(f"{folders[0]} is left out: {folders[1]} has the same recipe and seed 0")


def test_keys_are_shortened_as_far_as_they_stay_apart() -> None:
    keys = ["model.optimizer.init_args.lr", "model.objective.class_path", "data.val.limit", "data.test.limit"]
    assert list(short_keys(keys).values()) == ["lr", "objective", "val.limit", "test.limit"]
