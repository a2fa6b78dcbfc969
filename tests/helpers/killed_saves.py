"""A toy run that is killed at its n-th file operation in the folder of checkpoints, for every n, and resumed.

``python tests/helpers/killed_saves.py FOLDER`` prints a line per kill: n, and the digest of the final weights.
"""

import hashlib
import os
import signal
import sys
from pathlib import Path

from helpers.toy import ToyModule, fit
from lit_g2rpo.callbacks import RolloutCheckpoint
from lit_g2rpo.cli.checkpoints import find_checkpoint
from lit_g2rpo.errors import UserError

ROLLOUTS = 3
EVENTS = {"open", "os.rename", "os.remove", "os.rmdir", "os.symlink", "os.mkdir", "os.truncate", "shutil.rmtree"}


def train(folder: Path, checkpoint: str | None = None) -> str:
    """Train to the end and return the digest of the weights."""
    module = ToyModule(validation=lambda rollout: rollout / 10)
    keeper = RolloutCheckpoint(every_rollouts=1, keep_last=2)
    fit(module, folder, [keeper], rollouts=ROLLOUTS, checkpoint=checkpoint)
    return hashlib.sha256(module.policy.weight.detach().numpy().tobytes()).hexdigest()[:16]


def kill_at(operation: int, folder: Path) -> None:
    """Kill this process with SIGKILL before its n-th operation in a folder of checkpoints."""
    count = 0

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal count
        if event not in EVENTS or not any(str(folder) in str(a) and "checkpoints" in str(a) for a in arguments[:2]):
            return
        if event == "open" and len(arguments) > 2 and not (int(arguments[2]) & (os.O_WRONLY | os.O_RDWR)):
            return
        count += 1
        if count == operation:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


def forked(work: "object") -> int:
    """Call a function in a child process, and return 0 or the number of the signal that ended it."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()  # type: ignore[operator]
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else -os.WEXITSTATUS(status)


def main(root: Path) -> None:
    """Kill at every operation until a run reaches its end."""
    print("straight", train(root / "straight"), flush=True)
    operation = 0
    while True:
        operation += 1
        folder = root / str(operation)

        def killed(operation: int = operation, folder: Path = folder) -> None:
            kill_at(operation, folder)
            train(folder)

        def resumed(operation: int = operation, folder: Path = folder) -> None:
            try:
                path = str(find_checkpoint("last", folder / "toy"))
            except UserError:
                # killed before there was a checkpoint
                path = None
            digest = train(folder, path)
            left = [path.name for path in (folder / "toy/version_0/checkpoints").iterdir() if path.name[0] == "."]
            print(operation, digest, "from", path and Path(path).resolve().name, "left", left, flush=True)

        ended = forked(killed)
        assert ended in (0, signal.SIGKILL), ended
        assert forked(resumed) == 0
        if ended == 0:
            return


if __name__ == "__main__":
    main(Path(sys.argv[1]))
