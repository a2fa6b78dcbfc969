"""``serve``: start a vLLM server for the rollouts of a recipe."""

import ipaddress
import os
import shlex
import socket
from typing import Any

import torch
from typing_extensions import override

from lit_g2rpo.cli.line import Line
from lit_g2rpo.cli.parts import PartsCLI
from lit_g2rpo.cli.words import without
from lit_g2rpo.errors import UserError
from lit_g2rpo.planning.sizes import planned_model
from lit_g2rpo.policy.loading import resolve_path
from lit_g2rpo.rollout.vllm.environment import check_vllm
from lit_g2rpo.rollout.vllm.server.command import server_command, server_environment
from lit_g2rpo.rollout.vllm.settings import CPU_KV_GIB, engine_settings

BATCH = 16_384
"""Most tokens in a forward on the CPU, at least; it must hold a whole prompt."""
OWN_KEYS = ("--host", "--port", "--api_key_env", "--vllm", "--dry_run")


class ServeCLI(PartsCLI):
    """Add where the server listens."""

    @override
    def add_arguments_to_parser(self, parser: Any) -> None:
        super().add_arguments_to_parser(parser)
        parser.prog = "python -m lit_g2rpo serve"
        parser.description = "Start a vLLM server for the rollouts of a recipe; python -m lit_g2rpo fit uses it."
        parser.add_argument("--host", type=str, default="127.0.0.1", help="Address to listen on; 0.0.0.0 for all.")
        parser.add_argument("--port", type=int, default=8000, help="Port to listen on.")
        parser.add_argument("--api_key_env", type=str, default="", help="Variable that holds the key to ask for.")
        parser.add_argument("--vllm", type=str, default="", help="More flags of vLLM, in one word; they win.")
        parser.add_argument("--dry_run", type=bool, default=False, help="Print the command and do not run it.")

    @override
    def instantiate_classes(self) -> None:
        # a strategy may need packages or devices that the server's machine lacks
        config = self.config.clone()
        config.trainer.strategy, config.trainer.callbacks, config.trainer.logger = "auto", None, False
        # the engine may not be there yet
        config.model.rollout.engine, config.model.rollout.engine_options = "native", {}
        built = self.parser.instantiate(config)
        self.model, self.datamodule = built.model, built.data


def run(verb: str, line: Line) -> None:
    """Say how to point a run at the server, and become it.

    Raises:
        UserError: if vLLM is missing, or the server would be open to others without a key.
    """
    cli = ServeCLI(line.words)
    config = cli.config
    key = os.environ.get(config.api_key_env, "").strip() if config.api_key_env else ""
    if config.api_key_env and not key:
        raise UserError(f"--api_key_env is {config.api_key_env!r}, which the environment lacks")
    if not key and not loopback(config.host):
        raise UserError(
            f"--host {config.host} lets other machines in, who could change the weights; give a key by --api_key_env "
            "NAME, or leave --host out"
        )
    more = shlex.split(config.vllm)
    model = resolve_path(cli.model.policy_path)
    words = server_command(model, settings(cli), config.host, config.port, more)
    environment = server_environment(key)
    print(shown(words, {name: value for name, value in environment.items() if value != key}))
    options = {"urls": f"[http://{reachable(config.host)}:{config.port}]"}
    if config.api_key_env:
        options["api_key_env"] = config.api_key_env
    given = " ".join(f"--model.rollout.engine_options.{name} {shlex.quote(value)}" for name, value in options.items())
    recipe = shlex.join(without(OWN_KEYS, line.words))
    print(f"once it is up: python -m lit_g2rpo fit {recipe} --model.rollout.engine vllm_server {given}", flush=True)
    if not config.dry_run:
        check_vllm("serve")
        os.execvpe(words[0], words, {**os.environ, **environment})


def settings(cli: ServeCLI) -> dict[str, Any]:
    """Return the arguments of ``vllm.LLM`` with which it samples as the recipe's trainer computes."""
    policy, data, trainer = cli.model.policy_config, cli.datamodule, cli.config.trainer
    _, shape = planned_model(policy)
    known = getattr(shape.get_text_config(), "max_position_embeddings", None)
    longest = data.max_prompt_tokens + data.max_completion_tokens
    longest = min(longest, known or longest)
    precision = str(trainer.precision)
    on_cpu = trainer.accelerator == "cpu" or not torch.cuda.is_available()
    dtype = "bfloat16" if "bf16" in precision else "float16" if "16" in precision else policy.dtype
    given = engine_settings(
        own_draw=True,
        dtype=dtype,
        max_rows=cli.model.rollout.max_rows,
        max_model_len=longest,
        eager=on_cpu,
    )
    if on_cpu:
        # requests have seeds, and a generator of the CPU cannot skip the draws of a prompt that is read in parts
        given |= {"enable_chunked_prefill": False, "max_num_batched_tokens": max(BATCH, longest)}
        # by default vLLM wants nearly all of the machine's memory
        given |= {"gpu_memory_utilization": 0.4, "kv_cache_memory_bytes": int(CPU_KV_GIB * 2**30)}
    return given


def loopback(host: str) -> bool:
    """Return whether only processes of this machine reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def reachable(host: str) -> str:
    """Return how clients name a server that listens on an address."""
    return socket.gethostname() if host in ("0.0.0.0", "::", "") else f"[{host}]" if ":" in host else host


def shown(words: list[str], environment: dict[str, str]) -> str:
    """Format a command as one may type it."""
    return " ".join([*(f"{name}={shlex.quote(value)}" for name, value in environment.items()), shlex.join(words)])
