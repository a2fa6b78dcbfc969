"""A pickle that runs code when read carelessly, and leaves a file behind."""

import os
from pathlib import Path
from typing import Any


class Payload:
    """Create a folder when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)
