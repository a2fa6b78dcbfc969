"""DeepSpeed: optimizer state (ZeRO-1), gradients (ZeRO-2) and weights (ZeRO-3) split over ranks."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.accelerators import CPUAccelerator, CUDAAccelerator
from lightning.pytorch.strategies import DeepSpeedStrategy
from lightning.pytorch.trainer.states import TrainerFn
from lightning_utilities.core.imports import RequirementCache
from torch import nn
from typing_extensions import override

from lit_g2rpo.errors import UserError
from lit_g2rpo.hardware.hooks import (
    Sharding,
    forget_gradients,
    generation_context,
    keeps_masters,
    reads_folders,
    sharding,
)
from lit_g2rpo.strategies.deepspeed_checkpoint import is_deepspeed, only_plain, read_shards, read_weights
from lit_g2rpo.training.checkpoint_files import read
from lit_g2rpo.training.resume import check_weights
from lit_g2rpo.training.run import run_of


class G2RPODeepSpeedStrategy(DeepSpeedStrategy):
    """Lightning's DeepSpeed strategy, adapted to load the policy with transformers, sample from it and run on CPUs.

    Args:
        exclude_frozen_parameters: leave frozen weights out of checkpoints, like every other strategy here.
        **kwargs: arguments of Lightning's strategy.

    Raises:
        UserError: if DeepSpeed is not installed.
    """

    def __init__(self, exclude_frozen_parameters: bool = True, **kwargs: Any) -> None:
        if not RequirementCache("deepspeed"):
            raise UserError('trainer.strategy needs DeepSpeed: pip install "lit_g2rpo[deepspeed]"')
        super().__init__(exclude_frozen_parameters=exclude_frozen_parameters, **kwargs)
        assert self.config is not None
        # accumulating in bfloat16, the type of the weights, would lose what sixteen micro-batches add
        self.config.setdefault("data_types", {"grad_accum_dtype": "fp32"})
        # allow any optimizer in host memory, not only DeepSpeed's own
        self.config.setdefault("zero_force_ds_cpu_optimizer", False)

    @override
    def setup_environment(self) -> None:
        if not isinstance(self.accelerator, CPUAccelerator):
            super().setup_environment()
            return
        import deepspeed

        assert self.parallel_devices is not None
        # the engine needs the index of its device
        self.parallel_devices = [torch.device("cpu", index) for index in range(len(self.parallel_devices))]
        # gloo suffices; compiling DeepSpeed's own collectives would take half a minute
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        # skip Lightning's own method, which refuses everything but CUDA
        super(DeepSpeedStrategy, self).setup_environment()

    @contextmanager
    @override
    def model_sharded_context(self) -> Iterator[None]:
        # transformers reads the config and loads each weight directly into its shards
        from transformers.integrations.deepspeed import HfDeepSpeedConfig

        self._init_config_if_needed()
        # transformers uses it as long as it exists, and models loaded later must not be sharded
        config = HfDeepSpeedConfig(self.config)  # type: ignore[no-untyped-call]
        yield
        del config

    @contextmanager
    def block_backward_sync(self) -> Iterator[None]:
        """Do nothing, since the engine counts micro-batches itself and rejects this call at stages 2 and 3."""
        yield

    @override
    def backward(self, closure_loss: torch.Tensor, optimizer: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        # the trainer has already divided by the micro-batches of a step
        return super().backward(closure_loss, optimizer, *args, scale_wrt_gas=False, **kwargs)

    @override
    def optimizer_step(self, optimizer: Any, closure: Any, model: Any = None, **kwargs: Any) -> Any:
        steps = self.deepspeed_engine.is_gradient_accumulation_boundary()
        output = super().optimizer_step(optimizer, closure, model, **kwargs)
        if steps:
            # known only now; infinite if the gradient was not finite, when the engine leaves the weights unchanged
            norm = self.deepspeed_engine.get_global_grad_norm()
            assert self.lightning_module is not None
            run_of(self.lightning_module).report_gradient(torch.as_tensor(norm))
        return output

    @override
    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        # training needs as many processes as wrote it; all else runs on any number, or reads another strategy's file
        path, module = Path(self.broadcast(checkpoint_path)), self.lightning_module
        assert module is not None
        training = module.trainer.state.fn == TrainerFn.FITTING
        if path.is_file() and not training:
            checkpoint = read(path)
            self._put_weights(checkpoint["state_dict"])
            return checkpoint
        saved = read_shards(path)
        check_weights(module, run_of(module).policy_path, saved.shapes)
        if not training:
            self._put_weights(read_weights(path))
            return saved.state
        stage = self.config["zero_optimization"]["stage"]  # type: ignore[index]
        if (saved.stage, saved.ranks) != (stage, self.world_size):
            raise UserError(
                f"--ckpt_path {path} was written by {saved.ranks} processes with ZeRO stage {saved.stage}; this run "
                f"has {self.world_size} with stage {stage}: use what wrote it, or export it and start from the folder"
            )
        with only_plain(path):
            return super().load_checkpoint(path, weights_only)

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        # an error on one rank would leave the others waiting inside the engine
        writer: Any = self.deepspeed_engine.checkpoint_engine
        failures, write = list[Exception](), writer.save

        def attempt(*args: Any, **kwargs: Any) -> None:
            try:
                write(*args, **kwargs)
            except (OSError, RuntimeError) as error:
                failures.append(error)

        writer.save = attempt
        try:
            super().save_checkpoint(checkpoint, filepath, storage_options)
        finally:
            del writer.save
        if failures:
            raise failures[0]

    def _put_weights(self, weights: dict[str, torch.Tensor]) -> None:
        if self.zero_stage_3:
            self._restore_zero_state({"state_dict": weights}, strict=False)
        else:
            self.lightning_module.load_state_dict(weights, strict=False)  # type: ignore[union-attr]


def check_deepspeed(strategy: Any, accelerator: Any, ckpt_path: str | None) -> None:
    """Refuse Lightning's own DeepSpeed, DeepSpeed on other devices, and other strategies for a DeepSpeed checkpoint.

    Raises:
        UserError: in each case.
    """
    if isinstance(strategy, DeepSpeedStrategy):
        if not isinstance(strategy, G2RPODeepSpeedStrategy):
            raise UserError(
                "trainer.strategy is Lightning's own DeepSpeed, which divides gradients by the micro-batches twice and "
                "cannot load a policy at stage 3; take configs/strategy/deepspeed_zero1.yaml, ..._zero2 or ..._zero3"
            )
        from deepspeed.accelerator import get_accelerator

        device = type(accelerator).__name__.removesuffix("Accelerator").lower()
        # a subclass may support DeepSpeed on other devices
        if type(strategy) is G2RPODeepSpeedStrategy and not isinstance(accelerator, CUDAAccelerator | CPUAccelerator):
            raise UserError(
                f"trainer.strategy is DeepSpeed, which runs on NVIDIA GPUs and on the CPU here, but "
                f"trainer.accelerator is {device}; take configs/strategy/ddp.yaml or fsdp2.yaml"
            )
        if device == "cpu" and (chosen := get_accelerator().device_name()) != "cpu":
            raise UserError(
                f"trainer.accelerator is cpu, but DeepSpeed has chosen {chosen} on this machine; set the environment "
                "variable DS_ACCELERATOR=cpu"
            )
    elif ckpt_path and is_deepspeed(Path(ckpt_path)):
        raise UserError(
            f"--ckpt_path {ckpt_path} was written by DeepSpeed; take its strategy fragment, or export it and give the "
            "folder as model.policy.path"
        )


@sharding.register(DeepSpeedStrategy)
def _(strategy: type, ranks: int, arguments: Mapping[str, Any]) -> Sharding | None:
    if arguments.get("config"):
        # the config contains the stage
        return None
    stage = int(arguments.get("stage", 2))
    return Sharding(
        f"DeepSpeed ZeRO-{stage}",
        ranks,
        weights=stage >= 3,
        gradients=stage >= 2,
        optimizer=stage >= 1,
        deepspeed=True,
        offload_optimizer=bool(arguments.get("offload_optimizer")),
        offload_weights=bool(arguments.get("offload_parameters")),
    )


@generation_context.register
def _(strategy: DeepSpeedStrategy, model: nn.Module) -> AbstractContextManager[None]:
    return _gathered(strategy.deepspeed_engine, model) if strategy.zero_stage_3 else nullcontext()


@keeps_masters.register
def _(strategy: DeepSpeedStrategy) -> bool:
    return True


@reads_folders.register
def _(strategy: DeepSpeedStrategy) -> bool:
    return True


@forget_gradients.register
def _(strategy: DeepSpeedStrategy, module: nn.Module) -> None:
    from deepspeed.runtime.zero.stage_1_and_2 import INITIAL_MICRO_STEP_ID

    optimizer: Any = strategy.deepspeed_engine.optimizer
    optimizer.zero_grad()
    optimizer.averaged_gradients = {}
    if not strategy.zero_stage_3:
        # sums over the micro-batches so far; at stage 3, zero_grad has reset them
        optimizer.all_grad_tensors = {}
        optimizer.micro_step_id = INITIAL_MICRO_STEP_ID


@contextmanager
def _gathered(engine: Any, model: nn.Module) -> Iterator[None]:
    """Gather the weights once; inside the block, modules neither gather, release nor record.

    Ranks decode different numbers of steps, so nothing inside may wait for other ranks. A module that released its
    weights after each call would also gather them again for every token.
    """
    import deepspeed
    from deepspeed.runtime.zero import parameter_offload

    # release what the current forward has gathered or is gathering
    engine.empty_partition_cache()
    hooks = getattr(engine.optimizer, "parameter_offload", engine.optimizer)
    resting = {
        # the hook after the forward pops the module again by itself
        "pre_sub_module_forward_function": parameter_offload.FWD_MODULE_STACK.append,
        "post_sub_module_forward_function": lambda module: None,
    }
    with deepspeed.zero.GatheredParameters(list(model.parameters())):
        vars(hooks).update(resting)
        try:
            yield
        finally:
            for name in resting:
                delattr(hooks, name)
