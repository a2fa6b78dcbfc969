"""The weights of a vLLM engine in the trainer's process, kept equal to the policy's."""

import shutil
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from lit_g2rpo.policy.policy import Policy
from lit_g2rpo.rollout.engine import Pushed
from lit_g2rpo.rollout.vllm.adapters import adapter_arguments, write_adapters
from lit_g2rpo.rollout.vllm.push import BACKEND, Counted, Weights, named_weights

Push = Literal["weights", "adapters"]


def weight_arguments(policy: Policy, push: Push, sleep: int) -> dict[str, Any]:
    """Return the arguments with which `EngineWeights` can change the weights of a ``vllm.LLM``.

    Raises:
        UserError: if adapters are to be pushed, and the policy has none that vLLM takes.
    """
    from lit_g2rpo.rollout.vllm import transfer  # noqa: F401  # registers the backend

    arguments: dict[str, Any] = {"weight_transfer_config": {"backend": BACKEND}}
    if policy.device.type != "cpu" and sleep > 0:
        arguments["enable_sleep_mode"] = True
    return arguments | (adapter_arguments(policy) if push == "adapters" else {})


class EngineWeights:
    """Push a policy's weights when they have changed, and put the engine to sleep while the policy learns.

    Args:
        llm: a ``vllm.LLM`` in this process, built with `weight_arguments`.
        push: ``weights`` pushes all of them after each update, with adapters merged; ``adapters`` pushes the weights
            once, and after an update only the adapters.
        sleep: what `rest` does on a GPU: 0 nothing, 1 drops the cache and moves the weights to the host, 2 drops both.
    """

    def __init__(self, llm: Any, push: Push = "weights", sleep: int = 0) -> None:
        self._llm, self._push = llm, push
        # vLLM has no sleep on the CPU, and would warn each time
        self._level = sleep if llm.llm_engine.vllm_config.device_config.device_type != "cpu" else 0
        self._asleep = False
        self._version: int | None = None
        self._loaded = False
        self._pushes = 0
        self._folder = TemporaryDirectory(prefix="lit_g2rpo_adapters_")
        self.lora_request: Any = None
        """What each request must carry for the adapters to be used; None if they are merged."""
        llm.collective_rpc("init_weight_transfer_engine", kwargs={"init_info": {}})

    def forget(self) -> None:
        """Take all weights for changed, whatever the version of the next policy."""
        self._version, self._loaded = None, False

    def update(self, policy: Policy) -> Pushed:
        """Wake the engine, and bring its weights up to date; call this on gathered weights.

        Returns:
            What it cost, nothing if the weights had not changed.
        """
        start = time.perf_counter()
        stale = self._version != policy.version
        self._wake("weights")
        # if it fails, the next call starts over
        self._version = None
        size = self._send(policy) if stale else 0
        self._version = policy.version
        self._wake("kv_cache")
        self._asleep = False
        if stale:
            forget_features(self._llm)
        return Pushed(time.perf_counter() - start, size) if stale else Pushed()

    def rest(self) -> None:
        """Release memory of the GPU, as far as the level of sleep says; the next `update` takes it back."""
        if self._level == 0 or self._asleep:
            return
        self._llm.sleep(level=self._level)
        self._asleep = True
        if self._level > 1:
            self.forget()

    def _wake(self, tag: str) -> None:
        if self._asleep:
            self._llm.wake_up(tags=[tag])

    def _send(self, policy: Policy) -> int:
        size = 0
        if self._push == "weights" or not self._loaded:
            size += self._send_weights(named_weights(policy, merged=self._push == "weights"))
            self._loaded = True
        if self._push == "adapters":
            size += self._send_adapters(policy)
        self._llm.llm_engine.set_weight_version(str(policy.version))
        return size

    def _send_weights(self, weights: Weights) -> int:
        counted = Counted(weights)
        self._llm.collective_rpc("start_weight_update")
        self._llm.collective_rpc("update_weights", kwargs={"update_info": {"weights": counted}})
        self._llm.collective_rpc("finish_weight_update")
        return counted.size

    def _send_adapters(self, policy: Policy) -> int:
        from vllm.lora.request import LoRARequest

        self._pushes += 1
        folder = Path(self._folder.name) / str(self._pushes)
        size = write_adapters(policy, folder)
        if self.lora_request is not None:
            shutil.rmtree(self.lora_request.lora_path)
        # a number of its own, since vLLM keeps what it has loaded under one
        self.lora_request = LoRARequest(f"policy-{self._pushes}", self._pushes, str(folder))
        self._llm.llm_engine.add_lora(self.lora_request)
        return size


def forget_features(llm: Any) -> None:
    """Drop everything that a ``vllm.LLM`` has computed with earlier weights; vLLM itself drops nothing after a push."""
    llm.reset_prefix_cache()
    llm.llm_engine.reset_encoder_cache()
    llm.reset_mm_cache()
