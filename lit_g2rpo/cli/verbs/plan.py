"""``plan``: compute memory per device, derived sizes and the largest micro-batch of a run, without its weights."""

import os
from dataclasses import replace
from typing import Any

import torch
from typing_extensions import override

from lit_g2rpo.cli.line import Line
from lit_g2rpo.cli.parts import PartsCLI
from lit_g2rpo.cli.verbs.plan_report import show, show_times, verdict
from lit_g2rpo.errors import UserError
from lit_g2rpo.hardware.hooks import Sharding
from lit_g2rpo.hardware.steps import Step
from lit_g2rpo.planning.devices import Device, device_here, measured_cpu, named_device
from lit_g2rpo.planning.engines import decoding, engine_copy
from lit_g2rpo.planning.memory import RolloutSize, levers, memory_table
from lit_g2rpo.planning.sharding import sharding_of
from lit_g2rpo.planning.simulation import MicrobatchSize, Phantom
from lit_g2rpo.planning.sizes import planned_model
from lit_g2rpo.planning.times import Costs, Work, phases
from lit_g2rpo.policy.config import PolicyConfig
from lit_g2rpo.policy.families.family import ImageSizes
from lit_g2rpo.policy.loading import resolve_path
from lit_g2rpo.training.memory_trial import state_bytes
from lit_g2rpo.training.schedule import check_sizes, optimizer_steps_per_rollout

GIB = 2**30
USUAL_TEXT = 256
"""Tokens of a prompt besides its images, if nothing else is said."""


class PlanCLI(PartsCLI):
    """Build the module and the data, without policy or trainer."""

    @override
    def add_arguments_to_parser(self, parser: Any) -> None:
        super().add_arguments_to_parser(parser)
        parser.prog = "python -m lit_g2rpo plan"
        parser.description = "Memory per device, seconds per rollout and derived sizes of a run, without its weights."
        parser.add_argument("--memory_gib", type=float | None, default=None, help="Memory of a device, GiB.")
        parser.add_argument("--images", type=int, default=1, help="Images of a prompt, each of the largest area.")
        parser.add_argument("--device", type=str | None, default=None, help="Name of a GPU, such as H100, for times.")
        parser.add_argument(
            "--prompt_tokens", type=int | None, default=None, help="Mean tokens of a prompt, for times."
        )
        parser.add_argument(
            "--completion_tokens", type=int | None, default=None, help="Mean tokens of a completion, for times."
        )

    @override
    def instantiate_classes(self) -> None:
        # a strategy may need packages or devices that this machine lacks
        config = self.config.clone()
        config.trainer.strategy, config.trainer.callbacks, config.trainer.logger = "auto", None, False
        built = self.parser.instantiate(config)
        self.model, self.datamodule = built.model, built.data


def run(verb: str, line: Line) -> None:
    """Print the memory plan of a run.

    Raises:
        UserError: if sizes contradict each other, or the devices or the strategy's sharding are unknown.
    """
    cli = PlanCLI(line.words)
    config, module, data = cli.config, cli.model, cli.datamodule
    policy: PolicyConfig = module.policy_config
    if config.memory_gib is not None and config.memory_gib <= 0:
        raise UserError(f"--memory_gib is {config.memory_gib}; give the memory of a device, such as 80")
    if config.images < 0:
        raise UserError(f"--images is {config.images}; give the images of a prompt, 0 or more")
    if not policy.packing:
        raise UserError("model.policy.packing is false; plan only supports packed groups")
    trainer = config.trainer
    device = kind_of_device(trainer.accelerator)
    ranks = number_of_devices(trainer.devices, device) * trainer.num_nodes
    rates = device_rates(config.device, device)
    memory = config.memory_gib or (rates.gib if rates else device_memory(device))
    sharding = sharding_of(trainer.strategy, ranks)
    accumulate = trainer.accumulate_grad_batches
    steps = optimizer_steps_per_rollout(module.update.epochs, module.update.microbatches, accumulate)
    check_sizes(module.rollout.prompts, ranks, module.update.microbatches, accumulate)

    family, shape = planned_model(policy)
    dtype, autocast = types_of(policy.dtype, str(trainer.precision), sharding)
    grids, image_tokens = images_of(policy, family.image_sizes(shape), config.images, data.max_prompt_tokens)
    # for the ranks with the largest share
    own = -(-module.rollout.prompts // ranks)
    of_step = -(-module.rollout.prompts // (module.update.microbatches // accumulate) // ranks)
    group = module.rollout.group_size
    groups = -(-of_step // accumulate)
    # With fewer groups than micro-batches, groups are split, and their prompts repeated.
    rows = group if of_step >= accumulate else max(1, group * of_step // accumulate)
    size = MicrobatchSize(data.max_prompt_tokens, grids, ((data.max_completion_tokens,) * rows,) * groups)
    with Step("laying out the model"):
        phantom = Phantom(family, shape, policy, device, dtype, autocast)
    with Step(f"simulating micro-batch 1 of 2, {size.tokens:,} tokens"):
        a_pass = phantom.microbatch(size, module.objective, accumulate > 1)
    rollout = RolloutSize(
        own, group, data.max_prompt_tokens, image_tokens, data.max_completion_tokens, module.rollout.max_rows,
        module.rollout.slots, module.rollout.prefill_mib,
    )  # fmt: skip
    optimizer = config.model.optimizer.class_path
    copy = engine_copy(module.engine, phantom, rollout, memory)
    items = memory_table(
        phantom,
        sharding,
        a_pass,
        rollout,
        state_bytes={kind: state_bytes(module.optimizer, kind, module.device) for kind in (torch.float32, dtype)},
        temporaries=device == "cuda" and optimizer.startswith("torch.optim."),
        reference=module.reference_needed and policy.lora is None,
        features_mib=policy.features_on_device_mib,
        copy=copy,
    )
    half = replace(size, groups=(size.groups[0][: max(1, rows // 2)],) if groups == 1 else size.groups[: groups // 2])
    smaller = None
    if half.tokens < size.tokens:
        with Step(f"simulating micro-batch 2 of 2, {half.tokens:,} tokens"):
            smaller = phantom.microbatch(half, module.objective, accumulate > 1)
    print(f"policy: {policy.path}, {sum(w.numel() for w in phantom.parameters.values()) / 1e9:.2f} B weights, "
          f"{sum(w.numel() for w in phantom.learning) / 1e9:.3f} B learn")  # fmt: skip
    print(f"strategy: {sharding.name} on {ranks} x {device} of {memory:.0f} GiB, precision {trainer.precision}")
    print(f"rollout: {module.rollout.prompts} prompts x {group}, {own} prompts a rank; {steps} optimizer steps of "
          f"{accumulate} micro-batches")  # fmt: skip
    print(f"micro-batch, worst case: {groups} x ({data.max_prompt_tokens} prompt + {rows} x "
          f"{data.max_completion_tokens} completion tokens) = {size.tokens:,} tokens")  # fmt: skip
    show(items)
    verdict(items, a_pass, size, smaller, half, memory, levers(policy, sharding, optimizer))
    if rates is None:
        print("no times: the rates of the device are unknown; name one, such as --device H100")
        return
    patches = image_tokens * family.image_sizes(shape).merge ** 2
    work = Work(
        own,
        group,
        means(config.prompt_tokens, min(image_tokens + USUAL_TEXT, data.max_prompt_tokens), "--prompt_tokens"),
        patches,
        means(config.completion_tokens, -(-data.max_completion_tokens // 4), "--completion_tokens"),
        data.max_completion_tokens,
        module.update.epochs,
        module.update.microbatches,
        (module.rollout.old_logprobs == "recompute") + module.reference_needed,
    )
    how = decoding(module.engine, phantom, module.rollout, ranks, memory, work.context)
    if how is None:
        print(f"no times: how {module.rollout.engine} decodes is unknown")
        return
    costs = Costs(phantom, sharding, rates, policy.activation_checkpointing == "full")
    show_times(phases(costs, work, how), rates, how.prompts * group * work.completion_tokens, module.rollout.lag > 0)


def kind_of_device(accelerator: str) -> str:
    """Return whose kernels and sizes to assume; ``cuda`` stands for every device but the CPU."""
    if accelerator == "cpu" or (accelerator == "auto" and not torch.cuda.is_available()):
        return "cpu"
    return "cuda"


def number_of_devices(devices: Any, device: str) -> int:
    """Read the number of devices per machine from ``trainer.devices``.

    Args:
        devices: as configured.
        device: ``cpu`` or ``cuda``.

    Raises:
        UserError: if it depends on another machine, or there are none.
    """
    if isinstance(devices, list):
        return len(devices)
    if str(devices).lstrip("-").isdecimal() and int(devices) != -1:
        if int(devices) < 1:
            raise UserError(f"trainer.devices is {devices}; give 1 or more, or auto for those of this machine")
        return int(devices)
    found = 1 if device == "cpu" else torch.cuda.device_count()
    if not found:
        raise UserError(f"trainer.devices is {devices} and this machine has none; say how many: --trainer.devices 8")
    return found


def device_memory(device: str) -> float:
    """Read the memory of this machine's device, GiB.

    Raises:
        UserError: if there is no such device.
    """
    if device == "cpu":
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    if not torch.cuda.is_available():
        raise UserError("there is no such device here; say how much memory it has: --memory_gib 80")
    return torch.cuda.get_device_properties(0).total_memory / GIB


def types_of(dtype: str, precision: str, sharding: Sharding) -> tuple[torch.dtype, bool]:
    """Return the type of the weights on the device, and whether matrix products are cast to bfloat16."""
    half = precision.startswith("bf16") or precision.startswith("16")
    if sharding.deepspeed:
        # it converts all weights, even frozen ones, to the type of the precision
        return torch.bfloat16 if half else torch.float32, half and "true" not in precision
    return torch.bfloat16 if half and "true" in precision else getattr(torch, dtype), half and "true" not in precision


def images_of(
    policy: PolicyConfig, sizes: ImageSizes, count: int, prompt_tokens: int
) -> tuple[tuple[tuple[int, int], ...], int]:
    """Compute the image sizes of the worst prompt.

    Args:
        policy: settings of the policy.
        sizes: sizes by which images become tokens.
        count: number of images in a prompt.
        prompt_tokens: longest prompt, tokens.

    Returns:
        Height and width of each image in patches, and the tokens of all images.

    Raises:
        UserError: if the largest area is unknown.
    """
    pixels = policy.max_pixels
    if pixels is None and count:
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

        try:
            pixels = Qwen2VLImageProcessorPil.from_pretrained(resolve_path(policy.path)).size["longest_edge"]
        except OSError as error:
            raise UserError(
                "the image processor cannot be read; say the largest area: model.policy.max_pixels"
            ) from error
    merge = sizes.merge
    tokens = int(pixels or 0) // (sizes.patch * merge) ** 2
    tokens = min(tokens, (prompt_tokens - 1) // max(count, 1))
    height = int(tokens**0.5)
    if not height or not count:
        return (), 0
    grid = (merge * height, merge * (tokens // height))
    return (grid,) * count, count * height * (tokens // height)


def device_rates(name: str | None, device: str) -> Device | None:
    """Find the rates of the named device, or of this machine's; None if they are unknown.

    Raises:
        UserError: if the named device is unknown.
    """
    if name is not None:
        return named_device(name)
    if device == "cpu":
        with Step("measuring this CPU"):
            return measured_cpu(device_memory(device))
    return device_here()


def means(given: int | None, usual: int, option: str) -> int:
    """Return the mean that was given, or the usual one.

    Raises:
        UserError: if it is below 1.
    """
    if given is not None and given < 1:
        raise UserError(f"{option} is {given}; give a mean of 1 or more")
    return usual if given is None else given
