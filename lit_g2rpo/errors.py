"""Errors whose message is written for the user."""


class UserError(Exception):
    """A mistake in a config, a data row or a file, said in one line: what, where, and what would be right."""


class ScoringStopError(UserError):
    """Rewards that cannot be had: the run ends on every rank before it learns from the rollout, and is saved."""


class NonFiniteError(RuntimeError):
    """A reward, loss or gradient that is not finite: the run stops, with the sample ids saved."""


class RankError(RuntimeError):
    """This rank cannot go on because another one has failed, which has said why."""
