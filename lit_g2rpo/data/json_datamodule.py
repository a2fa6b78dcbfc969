"""Prompts from data files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from typing_extensions import override

from lit_g2rpo.data.datamodule import PromptData
from lit_g2rpo.data.files.json_rows import JsonRows
from lit_g2rpo.data.files.row_reader import RowReader
from lit_g2rpo.data.media.videos import VideoLimits
from lit_g2rpo.data.messages import TEMPLATE, check_template
from lit_g2rpo.errors import UserError
from lit_g2rpo.rewards.config import RewardConfig

File = str | Path
Files = File | list[File] | None

SPLITS = {"fit": "train", "validate": "val", "test": "test", "predict": "predict"}


class JsonPrompts(PromptData):
    """Rows of ``.jsonl``, ``.json``, ``.tsv``, ``.csv`` or ``.parquet`` files, or of tables on the Hugging Face hub.

    Rows may have the format of OneThinker and OpenVLThinkerV2, EasyR1, TRL, verl, ms-swift, VLM-R1 or lmms-lab's
    RefCOCO. Every row is checked before training starts.

    Args:
        train: file or files to train on, also as patterns (``data/*.jsonl``), or tables as ``owner/name@split``.
        val: file or files to validate on.
        test: file or files for ``test``; the validation files if None.
        predict: file or files for ``predict``, whose rows need no answer; the validation files if None.
        image_root: folder that image paths are relative to; images outside it are not read.
        columns: name of a column in the files, by the name it should have, such as ``{"problem": "query_text"}``; dots
            in a name lead into objects, names separated by commas make one list, an empty name leaves images out.
        defaults: values of columns that a row does not have, such as ``{"task_type": "ocr"}``.
        exif_rotation: rotate images according to their EXIF data; turn this off if boxes refer to the stored pixels.
        video: number and size of the frames to read from a video; None for the defaults.
        turns: keep the system turn and the turns before the question, or ask only the question.
        prompt_template: wording of the prompts, as Jinja text; None for ``prompt_template.jinja`` in the policy's
            folder, or the default one if there is none. A task may have its own.
        **kwargs: see ``PromptData``.
    """

    def __init__(
        self,
        train: Files = None,
        val: Files = None,
        test: Files = None,
        predict: Files = None,
        image_root: File = ".",
        columns: dict[str, str] | None = None,
        defaults: dict[str, str] | None = None,
        exif_rotation: bool = False,
        video: VideoLimits | None = None,
        turns: Literal["all", "question"] = "all",
        prompt_template: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        templates = {f"tasks.{name}.prompt_template": task.prompt_template for name, task in self.tasks.items()}
        for key, template in ({"prompt_template": prompt_template} | templates).items():
            if template is not None:
                check_template(template, f"data.{key}")
        self.prompt_template = prompt_template
        self.image_root = Path(image_root)
        self.reader = RowReader(self.image_root, columns, defaults, exif_rotation, video, turns)
        self.files: dict[str, Files] = {"train": train, "val": val, "test": test or val, "predict": predict or val}
        self._rows: dict[str, JsonRows] = {}

    @override
    def setup(self, stage: str) -> None:
        needed = SPLITS[stage]
        if not self.files[needed]:
            raise UserError(f"data.{needed} is not given; give a .jsonl, .json or .parquet file of rows")
        if not self.image_root.is_dir():
            raise UserError(f"data.image_root {self.image_root} is not a folder; give the folder of the images")
        self._open(needed)
        if stage == "fit":
            self._open("val")
        super().setup(stage)

    @override
    def train_dataset(self) -> JsonRows:
        return self._rows["train"]

    @override
    def val_dataset(self) -> JsonRows | None:
        return self._rows.get("val")

    @override
    def test_dataset(self) -> JsonRows | None:
        return self._rows.get("test")

    @override
    def predict_dataset(self) -> JsonRows | None:
        return self._rows.get("predict")

    def _open(self, split: str) -> None:
        files = self.files[split]
        if files and split not in self._rows:
            paths: Sequence[File] = [files] if isinstance(files, File) else files
            user = self.user() if self.module or self.trainer else None
            reward, template = user.reward if user else RewardConfig(), self.prompt_template
            if template is None and user is not None and user.prompt_template is not None:
                template = check_template(user.prompt_template, "prompt_template.jinja of the policy")
            answered = split != "predict"
            try:
                self._rows[split] = JsonRows(paths, self.reader, self.tasks, reward, answered, template or TEMPLATE)
            except UserError as error:
                error.add_note(f"data.{split}")
                raise
