"""Loggers of a run: the same names everywhere, one point per rollout, and one folder whatever the logger is."""

from lit_g2rpo.loggers.csv import CSV
from lit_g2rpo.loggers.mlflow import MLflow
from lit_g2rpo.loggers.run_logger import RunLogger, ShownGroup
from lit_g2rpo.loggers.tensorboard import TensorBoard
from lit_g2rpo.loggers.wandb import Wandb

__all__ = ["CSV", "MLflow", "RunLogger", "ShownGroup", "TensorBoard", "Wandb"]
