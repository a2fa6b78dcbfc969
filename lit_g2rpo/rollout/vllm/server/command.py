"""The command that starts a server."""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from lit_g2rpo.rollout.vllm.environment import DEFAULTS, REQUIRED
from lit_g2rpo.rollout.vllm.push import BACKEND, EXTENSION
from lit_g2rpo.rollout.vllm.server.gate import KEY_VARIABLE, PATH

OURS = ("VLLM_USE_V2_MODEL_RUNNER", "VLLM_CPU_OMP_THREADS_BIND", "VLLM_NO_USAGE_STATS")
"""Variables that a server needs as a colocated engine does."""

# without it, a server has no way to take weights
DEVELOPMENT = {"VLLM_SERVER_DEV_MODE": "1"}


def server_command(
    model: str, settings: Mapping[str, Any], host: str, port: int, more: Sequence[str] = ()
) -> list[str]:
    """Return the words of the command.

    Args:
        model: folder or name of the model.
        settings: arguments of ``vllm.LLM``, which become flags.
        host: address that the server listens on.
        port: port that it listens on.
        more: flags that come last, and so win.
    """
    # not `vllm serve`, which vllm-cpu does not have
    words = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model]
    words += ["--host", host, "--port", str(port), "--enable-scale-out", "--disable-uvicorn-access-log"]
    words += ["--middleware", PATH, "--weight-transfer-config", json.dumps({"backend": BACKEND})]
    words += ["--worker-extension-cls", EXTENSION]
    for name, value in settings.items():
        words += _flag(name.replace("_", "-"), value)
    return [*words, *more]


def server_environment(key: str) -> dict[str, str]:
    """Return the variables of the server's process that differ from this one's.

    Args:
        key: the key to ask for; empty for none. It is no flag, since all users of a machine see those.
    """
    known = REQUIRED | DEFAULTS
    return {name: known[name] for name in OURS} | DEVELOPMENT | ({KEY_VARIABLE: key} if key else {})


def _flag(name: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no-{name}"]
    values = value if isinstance(value, list) else [value]
    return [f"--{name}", *(json.dumps(one) if isinstance(one, dict) else str(one) for one in values)]
