"""Errors whose message is written for the user."""


class UserError(Exception):
    """A mistake in a config, a data row or a file, described in one line: what, where, and what would be right."""


class ScoringStopError(UserError):
    """Rewards that cannot be computed: the run is saved and ends on every rank before it learns from the rollout."""


class NonFiniteError(RuntimeError):
    """A reward, loss or gradient that is not finite: the run saves the sample ids and stops."""


class RankError(RuntimeError):
    """This rank cannot continue because another one, which has reported why, has failed."""
