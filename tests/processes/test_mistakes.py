"""What users get wrong, each answered by one line that names the key and what would be right, before any work."""

import importlib.util
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.paths import CONFIGS, ROOT
from helpers.refused import refused
from jsonargparse import Namespace

from lit_g2rpo.__main__ import main
from lit_g2rpo.cli.trainer_keys import check_machine
from lit_g2rpo.errors import UserError

RECIPE = ["--config", "configs/g2rpo.yaml"]
NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")


def without(module: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(bool(importlib.util.find_spec(module)), reason=f"{module} is installed")


@pytest.fixture(autouse=True)
def _checkout(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A folder with the configs of the checkout, from which modules are found as from a user's own."""
    (tmp_path / "configs").symlink_to(CONFIGS)
    monkeypatch.syspath_prepend(tmp_path)


LISTED = [
    ("--model.optimizer.lr=10", "model.optimizer.lr is 10; Adam moves every weight by about that much in a step"),
    (
        "--data=rows.jsonl",
        "rows.jsonl is a file of rows; data takes a config file or a class: --data configs/data/files.",
    ),
    ("--trainer.max_epochs=3", "trainer.max_epochs is 3; leave it out: the length of a run is schedule.rollouts"),
    ("--ckpt_path=damaged.ckpt", "--ckpt_path damaged.ckpt is not an intact checkpoint: the checksum of"),
    ("--data.max_completion_tokens=0", "data.max_completion_tokens is 0; it must be 1 or more"),
    ("--model.rollout.temperature=0", "model.rollout.temperature is 0, which samples one and the same completion"),
    ("--model.rollout.lag=1", "model.rollout.lag is 1, but model.rollout.engine native samples with the weights that"),
    ("--seed_everything=-1", "seed_everything is -1; it must be from 0 to 4294967295"),
    pytest.param(
        "--trainer.logger=lightning.pytorch.loggers.CometLogger",
        "lightning.pytorch.loggers.CometLogger cannot be built: ModuleNotFoundError: Requirement 'comet",
        marks=without("comet_ml"),
    ),
    pytest.param(
        "--trainer=configs/strategy/deepspeed_zero1.yaml",
        "trainer.accelerator is gpu, but torch finds none on this machine; leave out the fragment of configs/strategy "
        "that asks for it, or add --trainer.accelerator cpu --trainer.devices 2",
        marks=NO_GPU,
    ),
    (
        "--model.objective=mine.Bare",
        "model.objective Bare has neither an estimator nor advantages of its own; give one",
    ),
    (
        "--model.policy=configs/objective/grpo.yaml",
        "this file fills model.objective; give it there: --model.objective configs/objective/grpo.yaml",
    ),
    pytest.param("--trainer=configs/strategy/gpu.yaml", "trainer.accelerator is gpu, but torch finds", marks=NO_GPU),
    ("--config=configs/model/mini.yaml", "this file fills model.policy; give it there: --model.policy configs/model/"),
    ("--trainer.precision=fp16", "trainer.precision is fp16; did you mean 16-mixed? It is one of"),
    (
        "--model.optimizer.learning_rate=1e-5",
        "unknown key model.optimizer.learning_rate; did you mean model.optimizer.lr",
    ),
    pytest.param(
        "--model.optimizer=configs/optimizer/eight_bit.yaml",
        'model.optimizer needs the module bitsandbytes, which is not installed: pip install "lit_g2rpo[eight_bit]"',
        marks=without("bitsandbytes"),
    ),
    ("--model.policy.lora=true", "model.policy.lora is true; give its keys, such as {rank: 32, alpha: 64}, or null"),
]
KEYS = [
    ("--shedule.rollouts=3", "unknown key shedule.rollouts; did you mean schedule.rollouts?"),
    ("--num_generations=4", "unknown key num_generations; did you mean model.rollout.group_size?"),
    ("--model.rollout.group-size=4", "did you mean model.rollout.group_size?"),
    ("--model_rollout_group_size=4", "did you mean model.rollout.group_size?"),
    ("--data.train=rows.jsonl", "lit_g2rpo.mini.MiniPrompts has none, lit_g2rpo.data.JsonPrompts has"),
    ("-model.rollout.group_size=4", "a key starts with two hyphens: --model.rollout.group_size"),
    ("–model.rollout.group_size=4", "a key starts with two hyphens: --model.rollout.group_size"),  # noqa: RUF001
    ("configs/g2rpo.yaml", "unexpected word 'configs/g2rpo.yaml'; a recipe is given by --config configs/g2rpo.yaml"),
    ("--model.rollout.group_size", "model.rollout.group_size has no value; give one after the key"),
    ("--model.optimizer=Adamw", "model.optimizer: there is no Adamw; did you mean torch.optim.AdamW?"),
    ("--model.optimizer=torch.optim.Adamw", "'torch.optim' has no attribute 'Adamw'; did you mean torch.optim.AdamW?"),
    ("--model.lr_scheduler=cosine", "did you mean torch.optim.lr_scheduler.CosineAnnealingLR?"),
    ("--model.lr_scheduler=torch.optim.lr_scheduler.CosineAnnealingLR", "which needs T_max; give model.lr_sch"),
    ("--model.objective=g2rpo", "did you mean configs/objective/g2rpo.yaml?"),
    ("--model.policy=mini", "did you mean configs/model/mini.yaml?"),
    ("--model.policy=Qwen/Qwen3-VL-2B-Instruct", "give a file of configs/model, or --model.policy.path for a"),
    ("--config=configs/g2rp.yaml", "--config: no such file: configs/g2rp.yaml; did you mean configs/g2rpo.yaml?"),
    ("--trainer=configs/strategy/dpp.yaml", "no such file: configs/strategy/dpp.yaml; did you mean configs/strategy"),
    ("--trainer.callbacks+=lit_g2rpo.callbacks.Alarm", "did you mean lit_g2rpo.callbacks.Alarms?"),
    ("--trainer.callbacks+=lit_g2rpo.callbacks.Alarms", "trainer.callbacks has lit_g2rpo.callbacks.Alarms 2 times"),
    ("--trainer.callbacks+=lit_g2rpo.objectives.GRPO", "lit_g2rpo.objectives.GRPO, which is not a Callback"),
    ("--trainer.logger=tensorboard", "did you mean lightning.pytorch.loggers.TensorBoardLogger?"),
    ("--data.tasks.ocrr.entropy=[0.1,0.2]", "data.tasks.ocrr: no row has this task; did you mean ocr?"),
    ("--data.mixture.weights={ocrr: 2}", "data.mixture.weights.ocrr: the data has no such task; it has"),
    ("--trainer.strategy=deepseed", "trainer.strategy is deepseed; give auto, ddp or a file: --trainer configs"),
    ("--trainer.strategy=configs/strategy/ddp.yaml", "a file that fills trainer; give it there: --trainer configs"),
]  # fmt: skip
VALUES = [
    ("--model.optimizer.lr=0", "model.optimizer.lr is 0, which trains nothing; give a number above 0"),
    ("--model.optimizer.lr=.inf", "model.optimizer.lr is inf, which is no step; give a number above 0"),
    (
        "--model.policy.lr_scale={vison: 0.1}",
        "model.policy.lr_scale.vison: there is no such part; the parts are vision",
    ),
    ("--model.policy.lr_scale={vision: 0}", "model.policy.lr_scale.vision is 0.0; it must be above 0"),
    ("--model.policy.dtype=bf16", "model.policy.dtype is bf16; did you mean bfloat16? It is one of float32, bfloat16"),
    ("--model.policy.freeze=[vison]", "model.policy.freeze is vison; did you mean vision?"),
    ("--model.policy.lora={rank: 0}", "model.policy.lora.rank is 0; it must be 1 or more"),
    ("--model.policy.lora={dropout: 1.5}", "model.policy.lora.dropout is 1.5; give a share from 0 to below 1"),
    (
        "--model.policy.lora={targets: [q_proj, v_prj]}",
        "model.policy.lora.targets has v_prj; the linear layers are down_",
    ),
    ("--model.policy.max_pixels=0", "model.policy.max_pixels is 0; it must be 1 or more"),
    ("--model.policy.min_pixels=5000", "model.policy.max_pixels is 4096, but an image has at least 5000 pixels"),
    ("--model.policy.features_on_device_mib=-1", "model.policy.features_on_device_mib is -1.0; it must be 0"),
    (
        "--model.policy.attention=flash_attention_2",
        "model.policy.attention is flash_attention_2, which cannot be used here",
    ),
    ("--model.rollout.temperature=100", "model.rollout.temperature is 100, at which completions are noise; give 10"),
    ("--model.rollout.prefill_mib=.nan", "model.rollout.prefill_mib is nan; it must be above 0"),
    ("--model.objective.accuracy_high=95", "model.objective.accuracy_high is 95.0; it must be a share"),
    ("--model.objective.clip_high=30", "model.objective.clip_high is 30.0; it must be a share such as 0.28"),
    ("--model.reward.min_reasoning=-1", "model.reward.min_reasoning is -1; it must be 0 or more"),
    (
        "--trainer.gradient_clip_val=.nan",
        "trainer.gradient_clip_val is nan; it must be 0, which clips nothing, or more",
    ),
    (
        "--trainer.check_val_every_n_epoch=1",
        "trainer.check_val_every_n_epoch is 1; leave it out: schedule.validate_every",
    ),
    (
        "--trainer.num_nodes=2",
        "trainer.num_nodes is 2, but nothing says where the other machines are; start with torch",
    ),
    (
        "--trainer.default_root_dir=mine",
        "trainer.default_root_dir is mine, but a run is stored in the folder of its logger; set that: --trainer.lo",
    ),
    (
        "--model.judge=http://localhost:8000/v1",
        "give its keys: --model.judge.url http://localhost:8000/v1 --model.judge",
    ),
    ("--trainer.min_epochs=3", "trainer.min_epochs is 3; leave it out"),
    ("--trainer.overfit_batches=1", "trainer.overfit_batches is 1; leave it out"),
    ("--trainer.num_sanity_val_steps=-5", "trainer.num_sanity_val_steps is -5; give -1 for a full validation"),
    ("--trainer.val_check_interval=5", "trainer.val_check_interval follows from schedule.validate_every"),
    ("--trainer.devices=two", "trainer.devices is two; on the CPU give the number of processes, 1 or more"),
    ("--trainer.accelerator=tpu", "trainer: Requirement 'torch_xla"),
    ("--name=../mine", "--name is '../mine'; give the name of a folder"),
]


def prepare() -> None:
    """Write the files that some mistakes need."""
    Path("rows.jsonl").write_text('{"problem": "What is 1 + 1?", "answer": "2"}\n')
    Path("mine.py").write_text("from lit_g2rpo.objectives.objective import Objective\nclass Bare(Objective): pass\n")
    torch.save({"weight": torch.zeros(1000)}, "damaged.ckpt")
    content = bytearray(Path("damaged.ckpt").read_bytes())
    content[len(content) // 2] ^= 1
    Path("damaged.ckpt").write_bytes(content)


@pytest.mark.parametrize(("word", "says"), [*LISTED, *KEYS, *VALUES])
def test_a_wrong_word_is_one_line(capsys: pytest.CaptureFixture[str], word: str, says: str) -> None:
    prepare()
    device = ["--trainer.accelerator=cpu"] if "devices" in word else []
    assert says in refused(capsys, "fit", *RECIPE, *device, word)


def test_attention_and_precision_that_the_device_lacks_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(capsys, "fit", *RECIPE, "--trainer.accelerator=cpu", "--model.policy.packed_attention=flex")
    assert line.startswith("model.policy.packed_attention is flex, which needs CUDA, and this is cpu; leave it out")
    line = refused(capsys, "fit", *RECIPE, "--trainer.accelerator=cpu", "--trainer.precision=16-mixed")
    assert line == "trainer.precision is 16-mixed, which needs a GPU; on the CPU give bf16-mixed or 32-true"


def test_more_gpus_than_there_are_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)

    def check(devices: Any) -> None:
        check_machine(Namespace(accelerator="gpu", precision="bf16-mixed", strategy="auto", devices=devices))

    for devices in (3, "3", [0, 2]):
        with pytest.raises(
            UserError, match=r"trainer\.devices is .*, but this machine has 2 GPUs; give 1 to 2, or auto"
        ):
            check(devices)
    for devices in (2, "auto", -1, [1]):
        check(devices)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("model: {optimizer: {init_args: {learning_rate: 1.0e-5}}}", "did you mean model.optimizer.lr?"),
        ("model: {policy: {lora: {rnak: 8}}}", "did you mean model.policy.lora.rank?"),
        ("model: {policy: {lora: true}}", "model.policy.lora is true; give its keys"),
        ("trainer: {precision: fp16}", "did you mean 16-mixed?"),
        ("model: {rollout: [8]}", "model.rollout is [8]; give its keys, each with its value"),
        ("trainer: cpu", "trainer: there is no cpu; did you mean configs/strategy/cpu.yaml?"),
        (
            "schedule:\n  rollouts:5",
            "schedule: there is no rollouts:5; give its keys, each followed by a colon and a space",
        ),
        ("trainer:\n\tdevices: 1", "cannot start any token in line 2; indent with spaces, not tabs"),
        ("schedule: {log_every: 1}\nschedule: {rollouts: 2}", "mine.yaml has schedule twice, again in line 2; give it"),
        ("a:\n- b: 1\n  b: 2", "mine.yaml has a.b twice, again in line 3"),
        ("schedule: *nope", "mine.yaml is not YAML: found undefined alias 'nope' in line 1"),
        (
            "schedule:\n  rollouts: ${nope.rollouts}",
            "a config refers to ${nope.rollouts}, which cannot be read; give ${sch",
        ),
        ("schedule:\n  rollouts: ${oc.env:NOPE}", "${oc.env:NOPE}, which cannot be read; give"),
        (
            "model:\n  rollout:\n    prompts: ${..nope}",
            "model.rollout.prompts: InterpolationKeyError: Interpolation key",
        ),
        ("model: {rollout: {prompts: '${nope'}}", "model.rollout.prompts: GrammarParseError: no viable alternative"),
    ],
)
def test_a_mistake_in_a_recipe_is_one_line(capsys: pytest.CaptureFixture[str], text: str, says: str) -> None:
    Path("mine.yaml").write_text(text)
    assert says in refused(capsys, "fit", *RECIPE, "--config", "mine.yaml")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "group_size: 4\ngroup_size: 2",
            "--model.rollout mine.yaml has group_size twice, again in line 2; give it once",
        ),
        ("", "--model.rollout mine.yaml has no keys"),
        ("- 1", "--model.rollout mine.yaml has no keys"),
    ],
)
def test_a_mistake_in_a_fragment_is_one_line(capsys: pytest.CaptureFixture[str], text: str, says: str) -> None:
    Path("mine.yaml").write_text(text)
    assert says in refused(capsys, "fit", *RECIPE, "--model.rollout", "mine.yaml")


def test_a_finished_run_says_how_it_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    """It is no mistake to a queue that starts a command again until it ends with 0."""
    run = Path("runs/g2rpo/version_0")
    shutil.copytree(CONFIGS, run, ignore=shutil.ignore_patterns("g2rpo_*"))
    shutil.copy(run / "g2rpo.yaml", run / "config.yaml")
    (run / "checkpoints").mkdir()
    torch.save({"g2rpo": {"rollout_index": 150}}, run / "checkpoints/rollout=00150-step=000300.ckpt")
    (run / "checkpoints/last.ckpt").symlink_to("rollout=00150-step=000300.ckpt")
    before = sorted(run.rglob("*"))
    assert main(["fit", "--run", str(run)]) == 0
    assert capsys.readouterr().out.endswith("150 of 150 rollouts are done; to continue, add --more N\n")
    assert sorted(run.rglob("*")) == before


@pytest.mark.parametrize(
    ("verb", "meant"), [("train", "fit"), ("eval", "test"), ("generate", "predict"), ("ft", "fit")]
)
def test_a_verb_of_another_trainer_is_answered_with_ours(
    capsys: pytest.CaptureFixture[str], verb: str, meant: str
) -> None:
    assert refused(capsys, verb, *RECIPE) == f"unknown verb {verb!r}; did you mean {meant}?"


def test_an_export_needs_a_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(capsys, "export", *RECIPE).startswith("--output is not given; give a new folder")


def test_a_plan_needs_devices(capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(capsys, "plan", *RECIPE, "--trainer.devices=0").startswith(
        "trainer.devices is 0; give 1 or more, or auto"
    )


def test_a_missing_file_of_rows_names_its_key(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--data", str(ROOT / "configs/data/files.yaml"), "--data.train=nope.jsonl", "--data.image_root=."]
    assert refused(capsys, "fit", *RECIPE, *words).endswith("give the path of a data file (data.train)")


def test_callbacks_given_as_a_whole_are_noted(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--trainer.callbacks=[lit_g2rpo.callbacks.RunSummary]", "--model.optimizer.lr=0"]
    assert main(["fit", *RECIPE, *words]) == 2
    assert (
        "trainer.callbacks has no RolloutCheckpoint: this run keeps no checkpoint to resume from"
        in capsys.readouterr().out
    )
