"""The datamodule under Lightning's trainer: resume at every place, ranks, JSON files, mistakes."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers.paths import WEIGHTS
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from PIL import Image

from lit_g2rpo.data import JsonPrompts
from lit_g2rpo.data.datamodule import PromptData
from lit_g2rpo.data.evaluation_batches import ShardedBatches
from lit_g2rpo.data.loader import RolloutLoader
from lit_g2rpo.data.order.mixture import Mixture
from lit_g2rpo.errors import UserError
from lit_g2rpo.experience import Prompt
from lit_g2rpo.objectives.shaping import EntropyBand, LengthBand
from lit_g2rpo.policy.processor import ImageOnlyQwen3VLProcessor
from lit_g2rpo.rewards.config import RewardConfig

pytestmark = pytest.mark.filterwarnings("ignore")

PROMPTS, MICROBATCHES, ROLLOUTS = 6, 4, 3
PROCESSOR = ImageOnlyQwen3VLProcessor.from_pretrained(WEIGHTS)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


EPOCH = ROLLOUTS * MICROBATCHES


class Rows:
    def __len__(self) -> int:
        return PROMPTS * ROLLOUTS + 1

    def task_names(self) -> list[str]:
        return ["abc"[i % 3] for i in range(len(self))]

    def __getitem__(self, index: int) -> Prompt:
        return Prompt(str(index), "abc"[index % 3], "math", [], [], {})


class ToyData(PromptData):
    def train_dataset(self) -> Rows:
        return Rows()

    def val_dataset(self) -> Rows:
        return Rows()


class Toy(LightningModule):
    """Remember what it was given."""

    def __init__(self, asks_for_steps: bool = False) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.policy = SimpleNamespace(processor=PROCESSOR)
        self.reward, self.prompt_template = RewardConfig(), None
        self.rollout = SimpleNamespace(prompts=PROMPTS, seed=3)
        self.update = SimpleNamespace(epochs=2, microbatches=MICROBATCHES // 2)
        self.asks_for_steps = asks_for_steps
        self.trained: list[tuple[int, tuple[str, ...], int]] = []
        self.prompts: list[list[Prompt]] = []
        self.evaluated: list[str] = []

    def prepare_prompt(self, prompt: Prompt) -> None:
        """Encode nothing."""

    def training_step(self, batch: tuple[list[Prompt], int], batch_idx: int) -> torch.Tensor:
        prompts, k = batch
        self.prompts.append(prompts)
        self.trained.append((self.current_epoch, tuple(prompt.id for prompt in prompts), k))
        return self.layer(torch.ones(1, 1)).sum()

    def _evaluate(self, batch: tuple[list[Prompt], list[bool]]) -> None:
        self.evaluated += [prompt.id for prompt, number in zip(*batch, strict=True) if number is not None]

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self._evaluate(batch)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self._evaluate(batch)

    def predict_step(self, batch: Any, batch_idx: int) -> None:
        self._evaluate(batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        if self.asks_for_steps:
            assert self.trainer.estimated_stepping_batches
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(**options: Any) -> Trainer:
    return Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        accumulate_grad_batches=2, **options,
    )  # fmt: skip


def fit(
    folder: Path, resume: Path | None = None, asks_for_steps: bool = False, save: Any = None, **options: Any
) -> Toy:
    saver = ModelCheckpoint(dirpath=folder, save_top_k=-1, filename="{step}", **(save or {"every_n_train_steps": 1}))
    toy = Toy(asks_for_steps)
    trainer(callbacks=[saver], **options).fit(toy, datamodule=ToyData(val_batch_size=4), ckpt_path=resume)
    return toy


LENGTHS = {
    "epochs": {"max_epochs": 3},
    "steps": {"max_epochs": -1, "max_steps": 3 * EPOCH // 2, "check_val_every_n_epoch": None, "val_check_interval": 6},
}


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("asks_for_steps", [False, True])
def test_a_resumed_run_sees_what_the_straight_run_saw(tmp_path: Path, length: str, asks_for_steps: bool) -> None:
    straight = fit(tmp_path, **LENGTHS[length])
    assert len(straight.trained) == 3 * EPOCH
    places = {
        "between micro-batches": MICROBATCHES + 2,
        "rollout boundary": 2 * MICROBATCHES,
        "last batch of an epoch": EPOCH,
        "between micro-batches of the second epoch": EPOCH + 2,
    }
    for name, place in places.items():
        checkpoint = tmp_path / f"step={place // 2}.ckpt"
        resumed = fit(tmp_path / name, checkpoint, asks_for_steps, **LENGTHS[length])
        assert resumed.trained == straight.trained[place:], name


def test_a_checkpoint_of_a_finished_epoch_goes_on_with_the_next_rollout(tmp_path: Path) -> None:
    straight = fit(tmp_path, max_epochs=3, save={"save_on_train_epoch_end": True})
    resumed = fit(tmp_path / "resumed", tmp_path / f"step={EPOCH // 2}.ckpt", max_epochs=3)
    assert resumed.trained == straight.trained[EPOCH:]


def test_short_epochs_go_on_too(tmp_path: Path) -> None:
    options = {"max_epochs": 3, "limit_train_batches": EPOCH - 2}
    straight = fit(tmp_path, **options)
    assert len(straight.trained) == 3 * (EPOCH - 2)
    assert [k for _, _, k in straight.trained] == [i % MICROBATCHES for i in range(len(straight.trained))]
    for place in (EPOCH - 4, EPOCH - 2, EPOCH):
        resumed = fit(tmp_path / str(place), tmp_path / f"step={place // 2}.ckpt", **options)
        assert resumed.trained == straight.trained[place:]


def test_prompts_are_not_copied_and_validation_sees_every_row_once(tmp_path: Path) -> None:
    toy = fit(tmp_path, max_epochs=1, num_sanity_val_steps=0)
    assert toy.prompts[0] is toy.prompts[3]
    assert sorted(map(int, toy.evaluated)) == list(range(len(Rows())))
    for verb in ("validate", "test", "predict"):
        toy = Toy()
        getattr(trainer(), verb)(toy, datamodule=ToyData(val_batch_size=4))
        assert sorted(map(int, toy.evaluated)) == list(range(len(Rows()))), verb


def test_sizes_come_from_the_module_and_the_trainer() -> None:
    data = ToyData(rollouts_per_epoch=5, val_batch_size=2, max_failure_rate=0.2)
    data.trainer = SimpleNamespace(lightning_module=Toy(), global_rank=1, world_size=2)  # type: ignore[assignment]
    loader = data.train_dataloader()
    assert isinstance(loader, RolloutLoader)
    assert (len(loader), loader.rank, loader.world_size, loader.max_failure_rate) == (5 * MICROBATCHES, 1, 2, 0.2)
    assert len(next(iter(loader))[0]) == PROMPTS // 2
    batches = data.val_dataloader()
    assert isinstance(batches, ShardedBatches)
    assert (len(batches), batches.rank) == (5, 1)
    data.rollouts_per_epoch = None
    assert len(data.train_dataloader()) == ROLLOUTS * MICROBATCHES


def test_choices_reach_the_loaders() -> None:
    data = ToyData(
        mixture=Mixture(weights={"c": 0}), image_errors="raise", max_prompt_tokens=77, long_prompts="skip", limit=8
    )
    toy = Toy()
    toy.prepare_prompt = lambda prompt: setattr(prompt, "encoded", SimpleNamespace(input_ids=[1]))  # type: ignore[assignment]
    data.trainer = SimpleNamespace(lightning_module=toy, global_rank=0, world_size=1)  # type: ignore[assignment]
    loader = data.train_dataloader()
    prompts, _ = next(iter(loader))
    assert sorted(prompt.task for prompt in prompts) == ["a", "a", "a", "b", "b", "b"]
    assert prompts[0].encoded.input_ids == [1]
    assert (loader.image_errors, loader.max_prompt_tokens, loader.long_prompts) == ("raise", 77, "skip")
    data.done = frozenset({0, 3})
    test, val = data.test_dataloader(), data.val_dataloader()
    assert isinstance(test, ShardedBatches)
    assert isinstance(val, ShardedBatches)
    assert (test.rows, test.image_errors) == ([1, 2, 4, 5, 6, 7], "raise")
    assert val.rows == list(range(8))


def test_a_long_prompt_is_refused_before_training(files: Path) -> None:
    toy = Toy()
    with pytest.raises(UserError, match=r"row train.json:1: its prompt has \d+ tokens .* allows 50"):
        trainer(max_epochs=1).fit(toy, datamodule=json_data(files, max_prompt_tokens=50))
    assert not toy.trained
    trainer(max_epochs=1).fit(toy, datamodule=json_data(files))
    assert toy.trained


def test_columns_defaults_and_tags_reach_the_prompt(files: Path) -> None:
    row = {"text": "<image> Which digit?", "gold": "5", "images": ["5.jpg"], "kind": "chart"}
    (files / "own.jsonl").write_text(json.dumps(row))
    options = {
        "columns": {"problem": "text", "answer": "gold"},
        "defaults": {"problem_type": "numerical", "task_type": "ocr"},
    }
    data = json_data(files, val=str(files / "own.jsonl"), **options)
    data.module = SimpleNamespace(reward=RewardConfig(thinking_tag="think"), prompt_template=None)  # type: ignore[assignment]
    data.setup("validate")
    prompt = data.val_dataset()[0]
    assert (prompt.task, prompt.problem_type, prompt.sample["answer"], prompt.sample["kind"]) == (
        "ocr", "numerical", "5", "chart",
    )  # fmt: skip
    assert "<think>" in prompt.messages[0]["content"][-1]["text"]
    with pytest.raises(UserError, match=r"own.jsonl, line 1: no column 'words', which data.columns.problem names"):
        json_data(files, val=str(files / "own.jsonl"), columns={"problem": "words"}).setup("validate")


def test_a_reward_of_the_users_own_takes_any_answer(files: Path) -> None:
    row = {"problem": "Write a poem.", "problem_type": "math", "answer": "", "task_type": "poems"}
    (files / "own.jsonl").write_text(json.dumps(row))
    with pytest.raises(UserError, match="cannot be scored"):
        json_data(files, val=str(files / "own.jsonl"), tasks={"poems": {}}).setup("validate")
    json_data(files, val=str(files / "own.jsonl"), tasks={"poems": {"reward": "mine.poem"}}).setup("validate")


def test_bands_of_the_tasks() -> None:
    data = ToyData(tasks={"ocr": {"length": [1, 2, 3, 4], "entropy": None}})
    assert data.tasks["ocr"].length == LengthBand(1, 2, 3, 4)
    assert data.tasks["ocr"].entropy is None
    assert data.tasks["math_reasoning"].entropy == EntropyBand(0.2, 0.6)
    with pytest.raises(UserError, match=r"data.tasks.ocr.lengths: unknown key"):
        ToyData(tasks={"ocr": {"lengths": None}})


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    rows = []
    for i in range(8):
        Image.effect_noise((32, 32), 90).save(tmp_path / "images" / f"{i}.jpg")
        rows.append({
            "problem": "<image> Which digit?", "problem_type": ("math", "numerical")[i % 2], "answer": str(i),
            "images": [f"{i}.jpg"], "task_type": ("math_reasoning", "chart_figure_qa")[i % 2],
        })  # fmt: skip
    (tmp_path / "train.json").write_text(json.dumps(rows))
    (tmp_path / "val.jsonl").write_text("\n".join(json.dumps(row) for row in rows[:3]))
    return tmp_path


def json_data(folder: Path, **options: Any) -> JsonPrompts:
    given = {
        "train": str(folder / "train.json"),
        "val": [str(folder / "val.jsonl")],
        "image_root": str(folder / "images"),
    }
    return JsonPrompts(**(given | options))


def test_training_on_json_files_with_a_cut_off_image(files: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = files / "images" / "2.jpg"
    path.write_bytes(path.read_bytes()[:300])
    toy, data = Toy(), json_data(files)
    trainer(max_epochs=2).fit(toy, datamodule=data)
    # A row that is drawn twice for a rollout has a mark behind its id the second time.
    seen = {id.removesuffix("#2") for _, ids, _ in toy.trained for id in ids}
    assert seen == {f"train.json:{i + 1}" for i in range(8) if i != 2}
    assert toy.prompts[0][0].images[0].mode == "RGB"
    message = next(message for message in caplog.messages if message.startswith("row replaced"))
    assert message.startswith(f"row replaced: {files}/train.json, row 3: {path}: ")
    assert set(toy.evaluated) == {"val.jsonl:1", "val.jsonl:2"}


def test_training_without_validation(files: Path) -> None:
    toy = Toy()
    trainer(max_epochs=1).fit(toy, datamodule=json_data(files, val=None))
    assert toy.trained
    assert not toy.evaluated


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train": None}, "data.train is not given; give a .jsonl, .json or .parquet file"),
        ({"train": "none.json"}, "none.json: No such file or directory; give the path of a data file"),
        ({"val": "none.jsonl"}, "none.jsonl: No such file"),
        ({"image_root": "nowhere"}, "data.image_root nowhere is not a folder"),
        ({"image_root": "."}, "train.json, row 1: no image file"),
    ],
)
def test_mistakes_are_told_before_training(files: Path, options: dict[str, Any], message: str) -> None:
    toy = Toy()
    with pytest.raises(UserError, match=message):
        trainer(max_epochs=1).fit(toy, datamodule=json_data(files, **options))
    assert not toy.trained


def test_an_unknown_task_may_be_added(files: Path) -> None:
    rows = json.loads((files / "train.json").read_text())
    (files / "train.json").write_text(json.dumps([row | {"task_type": "mine"} for row in rows]))
    with pytest.raises(UserError, match="row 1: unknown task_type 'mine'; known: spatial_grounding"):
        json_data(files).setup("fit")
    data = json_data(files, tasks={"mine": {"entropy": [0.1, 0.5]}})
    data.setup("fit")
    assert set(data.train_dataset().task_names()) == {"mine"}


@pytest.mark.parametrize(("stage", "split"), [("validate", "val"), ("test", "test"), ("predict", "predict")])
def test_other_verbs_need_their_file_only(files: Path, stage: str, split: str) -> None:
    data = json_data(files, train="none.json")
    data.setup(stage)
    assert len(getattr(data, f"{split}_dataset")()) == 3
    with pytest.raises(UserError, match=f"data.{split} is not given"):
        json_data(files, val=None).setup(stage)
