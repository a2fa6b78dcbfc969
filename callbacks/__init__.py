"""Lightning callbacks of a run, with files at the root of the checkout that are imported as ``lit_g2rpo.callbacks``."""

if __name__ != "lit_g2rpo.callbacks":
    raise ImportError("import these as lit_g2rpo.callbacks")

from lit_g2rpo.callbacks.alarms import Alarms
from lit_g2rpo.callbacks.checkpoint import RolloutCheckpoint
from lit_g2rpo.callbacks.default import default_callbacks
from lit_g2rpo.callbacks.entropy_bounds import EntropyBounds
from lit_g2rpo.callbacks.interrupt import GracefulInterrupt
from lit_g2rpo.callbacks.length_curriculum import LengthCurriculum
from lit_g2rpo.callbacks.plots.advantage_topology import AdvantageTopology
from lit_g2rpo.callbacks.plots.band_plots import BandPlots
from lit_g2rpo.callbacks.prediction_writer import PredictionWriter
from lit_g2rpo.callbacks.preflight.callback import Preflight
from lit_g2rpo.callbacks.progress import RolloutProgress
from lit_g2rpo.callbacks.rollouts.rollout_log import RolloutLog
from lit_g2rpo.callbacks.run_record import RunRecord
from lit_g2rpo.callbacks.summary import RunSummary

__all__ = [
    "AdvantageTopology",
    "Alarms",
    "BandPlots",
    "EntropyBounds",
    "GracefulInterrupt",
    "LengthCurriculum",
    "PredictionWriter",
    "Preflight",
    "RolloutCheckpoint",
    "RolloutLog",
    "RolloutProgress",
    "RunRecord",
    "RunSummary",
    "default_callbacks",
]
