"""Whether what a verb writes can be written, asked before the work that fills it."""

import tempfile
from pathlib import Path

from lit_g2rpo.errors import UserError


def check_writable(path: Path) -> None:
    """Refuse an output that could not be written, before the work that fills it.

    Args:
        path: a file or folder that will be made, its folder too if need be.

    Raises:
        UserError: if the folder it lies in cannot be written.
    """
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    try:
        tempfile.TemporaryDirectory(dir=folder).cleanup()
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}); give a name in another folder") from None
