"""Files of weights that a trainer writes and its servers read."""

import shutil
from functools import partial
from pathlib import Path

from safetensors import SafetensorError

from lit_g2rpo.errors import UserError
from lit_g2rpo.policy.policy import Policy
from lit_g2rpo.rollout.vllm.push import Counted, chunks, named_weights
from lit_g2rpo.rollout.vllm.server.server import Load, Post, Server
from lit_g2rpo.rollout.vllm.server.wire import AwayError


def write_weights(policy: Policy, folder: Path, version: str) -> int:
    """Write a policy's weights in place of those of another version; call this on gathered weights.

    They stay, so that any rank can give them to a server that was restarted, also while the policy learns.

    Args:
        folder: folder of the run's weights.
        version: name of their version.

    Returns:
        Bytes written.

    Raises:
        UserError: if they cannot be written.
    """
    weights, part = Counted(named_weights(policy)), folder / f"{version}.part"
    try:
        _write(weights, part)
        part.rename(folder / version)
    # safetensors has an error of its own for a full disk
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"the weights cannot be written to {folder} ({error}); let model.rollout.engine_options.folder name a "
            "folder with room for them, which the servers see too"
        ) from error
    return weights.size


def _write(weights: Counted, part: Path) -> None:
    from safetensors.torch import save_file

    for old in part.parent.iterdir():
        shutil.rmtree(old)
    part.mkdir()
    for number, tensors in enumerate(chunks(weights)):
        save_file(
            {name: weight.cpu().contiguous() for name, weight in tensors.items()}, part / f"{number:05}.safetensors"
        )


def load_files(folder: Path, version: str) -> Load | None:
    """Return what lets a server read a version's files; None until all are written."""
    files = sorted(map(str, (folder / version).glob("*.safetensors")))
    return partial(_load, files) if files else None


def _load(files: list[str], server: Server, post: Post) -> None:
    post("/start_weight_update")
    for file in files:
        try:
            post("/update_weights", {"update_info": {"paths": [file]}})
        except AwayError as error:
            if "No such file" in str(error):
                raise UserError(
                    f"{server.url} cannot read {file}; let model.rollout.engine_options.folder name a folder that the "
                    "server sees under the same path"
                ) from error
            raise
    post("/finish_weight_update")
