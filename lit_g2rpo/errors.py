"""Errors whose message is written for the user."""


class UserError(Exception):
    """A mistake in a config, a data row or a file, described in one line: what, where, and what would be right."""


class RolloutStopError(UserError):
    """A rollout that cannot be used: the run is saved and ends on every rank before it learns from it."""


class ScoringStopError(RolloutStopError):
    """Rewards that cannot be computed."""


class EngineGapError(RolloutStopError):
    """Log-probabilities of the engine that are not those of the trained policy."""


class NonFiniteError(RuntimeError):
    """A reward, loss or gradient that is not finite: the run saves the sample ids and stops."""


class RankError(RuntimeError):
    """This rank cannot continue because another one, which has reported why, has failed."""
