"""The recipes' callbacks, for a trainer built in Python."""

import lightning.pytorch as L

from lit_g2rpo.callbacks.alarms import Alarms
from lit_g2rpo.callbacks.checkpoint import RolloutCheckpoint
from lit_g2rpo.callbacks.entropy_bounds import EntropyBounds
from lit_g2rpo.callbacks.interrupt import GracefulInterrupt
from lit_g2rpo.callbacks.length_curriculum import LengthCurriculum
from lit_g2rpo.callbacks.plots.advantage_topology import AdvantageTopology
from lit_g2rpo.callbacks.plots.band_plots import BandPlots
from lit_g2rpo.callbacks.prediction_writer import PredictionWriter
from lit_g2rpo.callbacks.preflight.callback import Preflight
from lit_g2rpo.callbacks.progress import RolloutProgress
from lit_g2rpo.callbacks.rollouts.rollout_log import RolloutLog
from lit_g2rpo.callbacks.run_folder import RunFolder
from lit_g2rpo.callbacks.run_record import RunRecord
from lit_g2rpo.callbacks.summary import RunSummary
from lit_g2rpo.errors import UserError

KINDS = (
    RunFolder,
    RunSummary,
    RunRecord,
    GracefulInterrupt,
    Preflight,
    RolloutProgress,
    RolloutLog,
    EntropyBounds,
    LengthCurriculum,
    AdvantageTopology,
    BandPlots,
    Alarms,
    PredictionWriter,
    RolloutCheckpoint,
)
"""In the order of the recipes, after the one that the command line adds itself."""


def default_callbacks(*own: L.Callback) -> list[L.Callback]:
    """Create the callbacks of the recipes.

    Args:
        own: callbacks that replace the default of their class, such as ``RolloutCheckpoint(every_rollouts=50)``, or
            are added if there is none.

    Returns:
        The callbacks, for ``Trainer(callbacks=...)``.

    Raises:
        UserError: if one is not a callback.
    """
    for callback in own:
        if not isinstance(callback, L.Callback):
            raise UserError(f"default_callbacks was given {callback!r:.80}; give objects of Lightning's Callback")
    given = {type(callback) for callback in own}
    made = [kind() for kind in KINDS if kind not in given] + [callback for callback in own if type(callback) in KINDS]
    made.sort(key=lambda callback: KINDS.index(type(callback)))
    return [*made, *(callback for callback in own if type(callback) not in KINDS)]
