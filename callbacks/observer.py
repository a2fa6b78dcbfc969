"""Callbacks that only observe."""

from functools import wraps
from typing import Any

import lightning.pytorch as L
from typing_extensions import override

from lit_g2rpo.hardware.aside import Aside


class Observer(L.Callback):
    """A callback whose hooks never end a run: a full disk, a closed terminal or a missing folder only causes a warning.

    Every hook ``on_...`` that a subclass defines is guarded. Collective operations must come first in a hook, so that
    a rank where something else fails still takes part in them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.aside = Aside(type(self).__name__)

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        for name, hook in list(vars(cls).items()):
            if name.startswith("on_") and callable(hook):
                setattr(cls, name, _guarded(hook))

    @override
    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self.aside.report()


def _guarded(hook: Any) -> Any:
    @wraps(hook)
    def guarded(self: Observer, *args: Any, **kwargs: Any) -> Any:
        with self.aside.guard():
            return hook(self, *args, **kwargs)

    return guarded
