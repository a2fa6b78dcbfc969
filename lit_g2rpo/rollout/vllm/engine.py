"""vLLM in the trainer's process, on a copy of the weights."""

import copy
from contextlib import AbstractContextManager
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from typing_extensions import override

from lit_g2rpo.errors import UserError
from lit_g2rpo.experience import Completion, Prompt
from lit_g2rpo.policy.policy import Policy
from lit_g2rpo.registry import one_line
from lit_g2rpo.rollout.engine import Finished, RolloutEngine, Sampling, announce
from lit_g2rpo.rollout.vllm import draw as own
from lit_g2rpo.rollout.vllm.environment import check_vllm, prepare
from lit_g2rpo.rollout.vllm.inputs import prompt_input, vllm_input
from lit_g2rpo.rollout.vllm.isolation import isolated
from lit_g2rpo.rollout.vllm.ranks import rank_arguments, rank_environment, shared_prompts
from lit_g2rpo.rollout.vllm.request import engine_draw, own_draw
from lit_g2rpo.rollout.vllm.settings import CPU_KV_GIB, engine_settings
from lit_g2rpo.rollout.vllm.weights import EngineWeights, Push, weight_arguments


class VllmEngine(RolloutEngine):
    """Sample with vLLM in the trainer's process; each rank has its own engine and its own copy of the weights.

    vLLM starts at the first push, before the first rollout or evaluation.

    Args:
        max_rows: most rows that vLLM decodes at a time.
        temperature: softmax temperature of the run.
        draw: ``own`` draws tokens from the run's counters, so that completions equal those of the other engines and
            entropies are exact; ``engine`` leaves the draw to vLLM, with seeds hashed from the counters, and the
            trainer computes the entropies of each group as soon as it is complete.
        memory: share of a GPU's memory for vLLM's weights and its key-value cache.
        kv_gib: size of the key-value cache, GiB; None for the rest of ``memory`` on a GPU, and for 1 on the CPU.
        max_model_len: most tokens of prompt and completion together; None for as many as model and memory allow.
        tensor_parallel: ranks that share one engine.
        sleep: 0 keeps weights and cache on the GPU while the trainer learns, 1 moves the weights to the host, 2 drops
            them; ignored on the CPU.
        push: ``weights`` sends all weights after an update, ``adapters`` only the adapters.

    Raises:
        UserError: if options contradict each other.
    """

    gap_causes: ClassVar[str] = (
        "a prefix or encoder cache that outlived a push, a tied head pushed under one of its names, pixels normalized "
        "twice or by another processor, log-probabilities of another temperature, another precision"
    )

    def __init__(
        self,
        max_rows: int = 512,
        temperature: float = 1.0,
        draw: Literal["own", "engine"] = "own",
        memory: float = 0.4,
        kv_gib: float | None = None,
        max_model_len: int | None = None,
        tensor_parallel: int = 1,
        sleep: int = 0,
        push: Push = "weights",
    ) -> None:
        if draw not in ("own", "engine"):
            raise UserError(f"model.rollout.engine_options.draw is {draw!r}; give own or engine")
        if not 0 < memory < 1:
            raise UserError(f"model.rollout.engine_options.memory is {memory}; give a share between 0 and 1")
        self.max_rows, self.own_draw = max_rows, draw == "own"
        self.memory, self.kv_gib, self.max_model_len = memory, kv_gib, max_model_len
        self.tensor_parallel, self.sleep, self.push_kind = tensor_parallel, sleep, push
        self.llm: Any = None
        self._weights: EngineWeights | None = None
        self._check_temperature(temperature)

    @override
    def attach(self, policy: Policy) -> None:
        super().attach(policy)
        if self._weights is not None:
            self._weights.forget()

    @override
    def check(self) -> None:
        check_vllm("model.rollout.engine is vllm")

    @override
    def push(self) -> None:
        if self._weights is None:
            self._weights = self._start()
        with self._isolated():
            self.pushed = self._weights.update(self.policy)

    @override
    def rest(self) -> None:
        if self._weights is not None:
            self._weights.rest()

    @override
    def generate(
        self, prompts: list[Prompt], group_size: int, sampling: Sampling, finished: Finished | None = None
    ) -> list[Completion]:
        # Sampling only some of the groups would change the batches, and with them the rounding of the others.
        if self.tensor_parallel == 1 and all(prompt.id in self.known for prompt in prompts):
            completions = [completion for prompt in prompts for completion in self.known[prompt.id]]
            announce(completions, group_size, finished)
            return completions
        self._check_temperature(sampling.temperature)
        engine = self.llm.llm_engine
        everyone, first = shared_prompts(self.policy, prompts, self.tensor_parallel)
        open_groups: list[dict[int, Any]] = [{} for _ in everyone]
        groups: list[list[Completion]] = [[] for _ in prompts]
        requests: dict[str, tuple[int, int]] = {}
        try:
            with self._isolated():
                self._add(requests, everyone, group_size, sampling)
            while requests:
                with self._isolated():
                    outputs = engine.step()
                for output in outputs:
                    index, completion = requests.pop(output.request_id)
                    rows = open_groups[index]
                    rows[completion] = output.outputs[0]
                    place = index - first
                    if len(rows) == group_size and 0 <= place < len(prompts):
                        groups[place] = self._group(prompts[place], [rows[g] for g in range(group_size)])
                        if finished is not None:
                            finished(place, groups[place])
        finally:
            # if it ends early, the next rollout must not find them
            engine.abort_request(list(requests))
        return [completion for group in groups for completion in group]

    def _add(
        self, requests: dict[str, tuple[int, int]], prompts: list[Prompt], group_size: int, sampling: Sampling
    ) -> None:
        """Hand all completions to vLLM at once.

        Args:
            requests: receives the indices of prompt and completion by the name of each request.
        """
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        policy, fields_of = self.policy, own_draw if self.own_draw else engine_draw
        merge = policy.backbone.family.image_sizes(policy.base.config).merge
        longest = self.llm.model_config.max_model_len
        adapters = self._weights and self._weights.lora_request
        for index, prompt in enumerate(prompts):
            encoded = policy.encode(prompt)
            length = len(encoded.input_ids)
            if length + sampling.max_tokens > longest:
                raise UserError(
                    f"row {prompt.id}: a prompt of {length} tokens and a completion of {sampling.max_tokens} are more "
                    f"than the {longest} tokens that vLLM has room for; raise max_model_len, memory or kv_gib in "
                    "model.rollout.engine_options, or lower data.max_completion_tokens"
                )
            inputs = vllm_input(prompt_input(encoded, merge))
            for g in range(group_size):
                fields = fields_of(policy, sampling, prompt.id, g)
                parameters = SamplingParams(**fields, output_kind=RequestOutputKind.FINAL_ONLY, flat_logprobs=True)
                name = f"{index} {g}"
                try:
                    self.llm.llm_engine.add_request(name, inputs, parameters, lora_request=adapters)
                except ValueError as error:
                    raise UserError(f"row {prompt.id}: vLLM does not take its prompt ({one_line(error)})") from error
                requests[name] = index, g

    def _group(self, prompt: Prompt, rows: list[Any]) -> list[Completion]:
        """Turn what vLLM returned for a group into completions."""
        token_ids = [torch.tensor(list(row.token_ids)) for row in rows]
        ends = self.policy.eos_token_ids
        values = [torch.tensor(row.logprobs.logprobs).view(len(row.token_ids), -1) for row in rows]
        if self.own_draw:
            stats = [own.read(of_tokens) for of_tokens in values]
        else:
            stats = list(zip((of_tokens[:, 0] for of_tokens in values), self._entropy(prompt, token_ids), strict=True))
        return [
            Completion(ids, *of_row, self.policy.decode(ids), truncated=int(ids[-1]) not in ends)
            for ids, of_row in zip(token_ids, stats, strict=True)
        ]

    def _entropy(self, prompt: Prompt, token_ids: list[Tensor]) -> list[Tensor]:
        """Compute the exact entropies of a group with the trainer's forward."""
        with torch.no_grad():
            _, entropy = self.policy.token_stats([prompt] * len(token_ids), token_ids)
        return list(torch.split(entropy.float().cpu(), [len(ids) for ids in token_ids]))

    def _start(self) -> EngineWeights:
        """Start vLLM on the architecture of the policy; its weights are pushed later."""
        self.check()
        prepare()
        # before autocast is off, which decides the type
        policy, settings = self.policy, self._settings()
        with self._isolated(), rank_environment(policy.device), TemporaryDirectory(prefix="lit_g2rpo_vllm_") as folder:
            from vllm import LLM

            config = copy.deepcopy(policy.base.config)
            config.architectures = [type(policy.base).__name__]
            config.save_pretrained(folder)
            policy.processor.save_pretrained(folder)
            try:
                self.llm = LLM(folder, **settings)
            except (RuntimeError, ValueError, OSError) as error:
                raise UserError(f"model.rollout.engine is vllm, which does not start: {one_line(error)}") from error
            return EngineWeights(self.llm, self.push_kind, self.sleep)

    def _settings(self) -> dict[str, Any]:
        on_cpu = self.policy.device.type == "cpu"
        settings = engine_settings(
            own_draw=self.own_draw,
            dtype=str(_dtype(self.policy)).removeprefix("torch."),
            max_rows=self.max_rows,
            max_model_len=self.max_model_len,
            eager=on_cpu,
        )
        kv_gib = CPU_KV_GIB if on_cpu and self.kv_gib is None else self.kv_gib
        if kv_gib is not None:
            settings["kv_cache_memory_bytes"] = int(kv_gib * 2**30)
        settings |= {"load_format": "dummy", "gpu_memory_utilization": self.memory}
        return (
            settings | weight_arguments(self.policy, self.push_kind, self.sleep) | rank_arguments(self.tensor_parallel)
        )

    def _isolated(self) -> AbstractContextManager[None]:
        return isolated(self.policy.device)

    def _check_temperature(self, temperature: float) -> None:
        if not self.own_draw and temperature not in (0, 1):
            raise UserError(
                f"model.rollout.engine_options.draw is engine, whose log-probabilities are those of temperature 1, but "
                f"the temperature is {temperature:g}; give draw: own, or temperature 1"
            )


def _dtype(policy: Policy) -> torch.dtype:
    """Return the type in which the policy computes: that of autocast, or of its weights."""
    device = policy.device.type
    if torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    dtype: torch.dtype = next(policy.base.parameters()).dtype
    if dtype == torch.float64:
        raise UserError("model.policy.dtype is float64, which vLLM does not know; give float32, or the native engine")
    return dtype
