"""Weights & Biases."""

import shlex
import shutil
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from typing_extensions import override

from lit_g2rpo.errors import UserError
from lit_g2rpo.loggers.run_logger import ShownGroup
from lit_g2rpo.loggers.service import ServiceLogger, completion_rows
from lit_g2rpo.registry import one_line


class Wandb(ServiceLogger):
    """Log to Weights & Biases: metrics by name over ``rollout``, groups as tables, figures and histograms.

    A resumed run continues with the same id and sends no point twice. Records, curves and predictions are uploaded.

    Args:
        save_dir: folder of all runs.
        name: name of the experiment; None for that of the recipe, and for none without one.
        version: number, or name, of the run's folder; None for the next number.
        project: project that the run belongs to.
        offline: only write to the run's folder; ``wandb sync`` uploads it later.
        options: other arguments of ``wandb.init``, such as ``{entity: my-team, tags: [ablation]}``.
    """

    def __init__(
        self,
        save_dir: str = "runs",
        name: str | None = None,
        version: int | str | None = None,
        project: str = "lit_g2rpo",
        offline: bool = False,
        options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__("wandb", save_dir, name, version)
        self.project, self.offline, self.options = project, offline, options or {}
        self._experiment: Any = None
        self._opens = ""

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The run in Weights & Biases, started or resumed."""
        if self._experiment is None:
            import wandb

            known = self.identity
            arguments: dict[str, Any] = {
                "project": self.project,
                "name": self.title,
                "group": Path(self.log_dir).parent.name,
                "id": known.get("id") or uuid.uuid4().hex[:8],
                "resume": "allow",
                "dir": self.log_dir,
                "mode": "offline" if self.offline else None,
                "reinit": "create_new",
                "settings": wandb.Settings(console="off", silent=True),
            }
            Path(self.log_dir).mkdir(parents=True, exist_ok=True)
            try:
                run = wandb.init(**arguments | self.options)
            except (wandb.Error, OSError) as error:
                raise UserError(
                    f"trainer.logger: Weights & Biases cannot begin the run: {one_line(error)}; call wandb login, or "
                    "give --trainer.logger.init_args.offline true"
                ) from error
            run.define_metric("rollout")
            run.define_metric("*", step_metric="rollout")
            self.keep_identity({"id": run.id, "project": run.project})
            append = "--append " if known else ""
            self._opens = f"wandb sync {append}{shlex.quote(run.settings.sync_dir)}" if run.offline else str(run.url)
            self._experiment = run
        return self._experiment

    @override
    @rank_zero_only
    def log_hyperparams(self, params: Any, *_: Any, **__: Any) -> None:
        self.experiment.config.update(params, allow_val_change=True)

    @override
    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        rollout = step or 0
        if values := self.fresh(metrics, rollout):
            self.experiment.log({**values, "rollout": rollout})

    def _show(self, values: Mapping[str, Any], rollout: int) -> None:
        if rollout not in self.repeated:
            self.experiment.log({**values, "rollout": rollout})

    @override
    def show_image(self, name: str, pixels: np.ndarray, rollout: int) -> None:
        import wandb

        self._show({name: wandb.Image(pixels)}, rollout)

    @override
    def show_histogram(self, name: str, values: Tensor, rollout: int) -> None:
        import wandb

        self._show({name: wandb.Histogram(values.tolist())}, rollout)

    @override
    def show_groups(self, groups: Sequence[ShownGroup], rollout: int) -> None:
        import wandb

        rows = [(group, row) for group in groups for row in completion_rows(group)]
        most = max(len(group.images) for group in groups)
        table = wandb.Table([*rows[0][1], *(f"image_{number}" for number in range(most))])
        shown = {group.name: [wandb.Image(image) for image in group.images] for group in groups}
        for group, row in rows:
            images = shown[group.name]
            table.add_data(*row.values(), *images, *[None] * (most - len(images)))
        self._show({"groups": table}, rollout)

    @override
    @rank_zero_only
    def finalize(self, status: str) -> None:
        if self._experiment is not None:
            for path in self.files():
                # already in wandb's own folder; otherwise wandb would link the file there and print a warning
                copy = shutil.copy(path, self._experiment.dir)
                self._experiment.save(copy, base_path=self._experiment.dir, policy="now")
            self._experiment.finish(exit_code=int(status == "failed"))
            self._experiment = None

    @override
    def how_to_open(self, folder: Path) -> str:
        return f"W&B:         {self._opens}"
