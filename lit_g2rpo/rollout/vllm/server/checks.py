"""Whether a server is one that a run can use."""

from typing import Any

from lit_g2rpo.errors import UserError
from lit_g2rpo.rollout.vllm.draw import LOGPROBS_MODE, PROCESSOR
from lit_g2rpo.rollout.vllm.server.gate import sizes
from lit_g2rpo.rollout.vllm.server.protocol import Serves

VOCABULARY = "vocab_size"
UNUSED = ("pad_token_id", "bos_token_id", "eos_token_id")
"""Tokens of which the run has its own."""
START = "start it with python -m lit_g2rpo serve and the recipe of this run"


def check_model(url: str, serves: Serves, config: Any) -> None:
    """Refuse a server whose model has other sizes than the policy; its weights are replaced anyway.

    Args:
        url: its address.
        serves: how it was started.
        config: config of the policy's model.

    Raises:
        UserError: if vocabulary or sizes differ.
    """
    own = sizes(config.to_dict())
    for name in sorted(own.keys() & serves.sizes.keys(), key=lambda name: not name.endswith(VOCABULARY)):
        if name.rpartition(".")[2] in UNUSED:
            continue
        if own[name] != serves.sizes[name]:
            what = "another vocabulary" if name.endswith(VOCABULARY) else "another model"
            raise UserError(
                f"{url} serves {what}: {serves.model} has {name} {serves.sizes[name]}, the policy {own[name]}; {START}"
            )


def check_flags(url: str, serves: Serves, backend: str) -> None:
    """Refuse a server that was started without what rollouts need.

    Args:
        url: its address.
        serves: how it was started.
        backend: the weight-transfer backend that the run uses.

    Raises:
        UserError: if flags are missing.
    """
    flags = {
        f"--logits-processors {PROCESSOR}": PROCESSOR in serves.logits_processors,
        f"--logprobs-mode {LOGPROBS_MODE}": serves.logprobs_mode == LOGPROBS_MODE,
        f"--weight-transfer-config with backend {backend}": serves.weight_transfer == backend,
        "--no-mm-device-do-normalize": not serves.normalizes,
        # a generator of the CPU cannot skip the draws of a prompt that is read in parts, which ends the server
        "--no-enable-chunked-prefill": not serves.splits,
    }
    if missing := [flag for flag, given in flags.items() if not given]:
        raise UserError(f"{url} was started without {', '.join(missing)}; {START}")
