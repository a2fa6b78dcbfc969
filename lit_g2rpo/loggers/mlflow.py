"""MLflow."""

import logging
import os
import re
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn
from typing_extensions import override

from lit_g2rpo.errors import UserError
from lit_g2rpo.loggers.run_logger import ShownGroup, flat
from lit_g2rpo.loggers.service import ServiceLogger, completion_rows
from lit_g2rpo.registry import one_line

METRICS, PARAMETERS = 1000, 100
"""Maximum number of each per request. Source: MLflow's REST API, ``runs/log-batch``."""

T = TypeVar("T")


class MLflow(ServiceLogger):
    """Log to MLflow: metrics by name with the rollout as step, groups as tables, figures, and the run's files.

    A resumed run continues the same MLflow run and sends no point twice. MLflow does not allow parameters to change, so
    it keeps those of the start; the records among the artifacts have later ones.

    Args:
        save_dir: folder of all runs.
        name: name of the experiment; None for that of the recipe, and for none without one.
        version: number, or name, of the run's folder; None for the next number.
        experiment_name: MLflow's experiment that the run belongs to.
        tracking_uri: MLflow's server or database; None for ``MLFLOW_TRACKING_URI``, or ``mlflow.db`` in ``save_dir``.
    """

    def __init__(
        self,
        save_dir: str = "runs",
        name: str | None = None,
        version: int | str | None = None,
        experiment_name: str = "lit_g2rpo",
        tracking_uri: str | None = None,
    ) -> None:
        super().__init__("mlflow", save_dir, name, version)
        self.experiment_name, self.tracking_uri = experiment_name, tracking_uri
        self._client: Any = None
        self._run_id = ""

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """MLflow's client, with the run started or resumed."""
        if self._client is None:
            from mlflow import MlflowClient
            from mlflow.exceptions import MlflowException

            # importing MLflow enables messages about creating database tables
            for name in ("mlflow", "alembic"):
                logging.getLogger(name).setLevel(logging.WARNING)

            known = self.identity
            base = Path(self._place.save_dir).absolute()
            given = self.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
            if not given and re.search("[#?%]", str(base)):
                raise UserError(
                    f"trainer.logger: MLflow cannot keep its database in {base}: it reads #, ? and % as parts of an "
                    "address; give another save_dir, or a tracking_uri"
                )
            uri = given or known.get("tracking_uri") or f"sqlite:///{base / 'mlflow.db'}"
            Path(self.log_dir).mkdir(parents=True, exist_ok=True)
            try:
                client = MlflowClient(uri)
                self._run_id = self._go_on(client, known) or self._begin(client, base / "mlflow")
            except (MlflowException, OSError) as error:
                raise UserError(f"trainer.logger: MLflow cannot begin the run at {uri}: {one_line(error)}") from error
            self.tracking_uri = uri
            # a server's URL may contain a password
            self.keep_identity({"run_id": self._run_id} | ({} if given else {"tracking_uri": uri}))
            self._client = client
        return self._client

    @staticmethod
    def _go_on(client: Any, known: Mapping[str, str]) -> str:
        from mlflow.exceptions import MlflowException

        if not known:
            return ""
        try:
            client.update_run(known["run_id"], status="RUNNING")
        except MlflowException:
            rank_zero_warn(f"MLflow knows no run {known['run_id']} any more; the rest of this run is a new one there")
            return ""
        return known["run_id"]

    def _begin(self, client: Any, artifacts: Path) -> str:
        known = client.get_experiment_by_name(self.experiment_name)
        if known is None:
            # a database cannot store files
            place = f"file://{artifacts}" if str(client.tracking_uri).startswith("sqlite:") else None
            experiment_id = client.create_experiment(self.experiment_name, artifact_location=place)
        else:
            experiment_id = known.experiment_id
        return str(client.create_run(experiment_id, run_name=self.title).info.run_id)

    @override
    @rank_zero_only
    def log_hyperparams(self, params: Any, *_: Any, **__: Any) -> None:
        from mlflow.entities import Param

        known = self.experiment.get_run(self._run_id).data.params
        new = [Param(key, str(value)) for key, value in flat(params) if key not in known]
        for part in batches(new, PARAMETERS):
            self.experiment.log_batch(self._run_id, params=part)

    @override
    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        from mlflow.entities import Metric

        now, rollout = int(time.time() * 1000), step or 0
        values = [
            Metric(re.sub(r"[^\w/. :-]", "_", name), value, now, rollout)
            for name, value in self.fresh(metrics, rollout).items()
        ]
        for part in batches(values, METRICS):
            self.experiment.log_batch(self._run_id, metrics=part)

    @override
    def show_image(self, name: str, pixels: np.ndarray, rollout: int) -> None:
        if rollout not in self.repeated:
            self.experiment.log_image(self._run_id, pixels, key=name, step=rollout)

    @override
    def show_groups(self, groups: Sequence[ShownGroup], rollout: int) -> None:
        path = f"groups/rollout_{rollout:06d}.json"
        if any(found.path == path for found in self.experiment.list_artifacts(self._run_id, "groups")):
            # logged by the part that this run resumes; MLflow would append the same rows again
            return
        rows = [row for group in groups for row in completion_rows(group)]
        columns = {name: [row[name] for row in rows] for name in rows[0]}
        self.experiment.log_table(self._run_id, columns, path)
        for group in groups:
            for number, image in enumerate(group.images):
                name = f"{group.name.replace('/', '_')}_{rollout:06d}_{number}.png"
                self.experiment.log_image(self._run_id, image, artifact_file=f"groups/{name}")

    @override
    @rank_zero_only
    def finalize(self, status: str) -> None:
        if self._client is not None:
            for path in self.files():
                self._client.log_artifact(self._run_id, str(path))
            if (page := Path(self.log_dir) / "rollouts").is_dir():
                self._client.log_artifacts(self._run_id, str(page), "rollouts")
            self._client.set_terminated(self._run_id, "FAILED" if status == "failed" else "FINISHED")
            self._client = None

    @override
    def how_to_open(self, folder: Path) -> str:
        uri = re.sub(r"//[^/@]*@", "//", str(self.tracking_uri))
        return f"MLflow:      {uri if uri.startswith('http') else f'mlflow ui --backend-store-uri {shlex.quote(uri)}'}"


def batches(values: Sequence[T], size: int) -> Iterator[list[T]]:
    """Split a sequence into lists of at most ``size``."""
    rest = iter(values)
    while part := list(islice(rest, size)):
        yield part
