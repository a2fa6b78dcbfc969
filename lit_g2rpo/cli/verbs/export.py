"""``export``: write a Hugging Face folder with a model card from a checkpoint, and push it to the Hub."""

import shutil
from pathlib import Path
from typing import Any, Literal

import torch
from typing_extensions import override

from lit_g2rpo.callbacks.run_record import PACKAGES, installed
from lit_g2rpo.cli.checkpoints import read_state
from lit_g2rpo.cli.hub import check_push, push
from lit_g2rpo.cli.line import Line
from lit_g2rpo.cli.model_card import Facts, model_card
from lit_g2rpo.cli.parts import PartsCLI
from lit_g2rpo.errors import UserError
from lit_g2rpo.files import check_writable, whole
from lit_g2rpo.hardware.steps import Step
from lit_g2rpo.module import G2RPOModule
from lit_g2rpo.policy.loading import resolve_path
from lit_g2rpo.policy.policy import Policy
from lit_g2rpo.policy.wording import PROMPT_TEMPLATE
from lit_g2rpo.strategies.deepspeed_checkpoint import read_weights
from lit_g2rpo.training.checkpoint_files import read
from lit_g2rpo.training.resume import check_checkpoint, check_weights

Dtype = Literal["float32", "bfloat16", "float16"]


class ExportCLI(PartsCLI):
    """Add the options for the checkpoint, the output folder and the Hub."""

    @override
    def add_arguments_to_parser(self, parser: Any) -> None:
        super().add_arguments_to_parser(parser)
        parser.prog = "python -m lit_g2rpo export"
        parser.description = "Write a Hugging Face folder from a checkpoint."
        parser.add_argument(
            "--ckpt_path", type=str | None, default=None, help="Checkpoint; last or best of the experiment; a path."
        )
        parser.add_argument("--output", type=str, required=True, help="Folder to write; must be new or empty.")
        parser.add_argument("--dtype", type=Dtype | None, default=None, help="Type of the weights; null: the base's.")
        parser.add_argument("--push", type=str | None, default=None, help="Repository of the Hub: owner/name.")
        parser.add_argument(
            "--private", type=bool | None, default=None, help="Of a new repository; null: the owner's default."
        )

    @override
    def before_instantiate_classes(self) -> None:
        if not self.config.ckpt_path:
            raise UserError("--ckpt_path is not given; give last, best or the path of a checkpoint")
        # before reading a large checkpoint
        output = Path(self.config.output).absolute()
        if output.exists() and (not output.is_dir() or any(output.iterdir())):
            raise UserError(f"--output {self.config.output} exists and is not empty; give a new folder")
        check_writable(output)
        if self.config.push:
            check_push(self.config.push)
        super().before_instantiate_classes()


def run(verb: str, line: Line) -> None:
    """Write the policy of a checkpoint as a Hugging Face folder, and push it if requested.

    Raises:
        UserError: if the output is not empty or does not fit on the disk, the checkpoint is missing or of another
            model, or the push cannot succeed.
    """
    cli = ExportCLI(line.words)
    config, module, checkpoint = cli.config, cli.model, Path(cli.config.ckpt_path)
    output = Path(config.output).absolute()
    load_weights(module, checkpoint)
    origin = resolve_path(module.policy_path)
    dtype = getattr(torch, config.dtype or base_dtype(origin))
    model = merged(module.policy)
    weights = f"{sum(weight.numel() for weight in model.parameters()) / 1e6:,.1f} M in {name_of(dtype)}"
    now = next(model.parameters()).dtype
    print(
        f"{config.ckpt_path}: {gigabytes(bytes_of(model, now))} of weights in {name_of(now)}, written as "
        f"{gigabytes(bytes_of(model, dtype))} in {name_of(dtype)}",
        flush=True,
    )
    check_room(output, bytes_of(model, dtype))
    cast(model, dtype)
    state = read_state(checkpoint)
    recipe = state.get("recipe")
    objective = recipe["model"]["objective"]["class_path"] if recipe else type(module.objective).__name__
    facts = Facts(
        name=config.push or output.name,
        base=module.policy_path,
        license=license_of(origin),
        objective=objective.rpartition(".")[2],
        weights=weights,
        rollouts=state["g2rpo"]["rollout_index"],
        history=state["g2rpo"]["validation_history"],
        recipe=recipe,
        max_tokens=cli.datamodule.max_completion_tokens,
        versions=installed(PACKAGES),
    )
    with whole(output) as part:
        save(model, module.policy, origin, part)
        (part / "README.md").write_text(model_card(facts), encoding="utf-8")
    written = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
    print(f"{output}: {gigabytes(written)}, for AutoModelForImageTextToText.from_pretrained", flush=True)
    if config.push:
        print(f"pushed: {push(output, config.push, config.private)}")


def load_weights(module: G2RPOModule, path: Path) -> None:
    """Load the policy with a checkpoint's weights.

    Args:
        path: a checkpoint file, or the folder of a sharded one.

    Raises:
        UserError: if the checkpoint is of another model.
    """
    module.configure_model()
    with Step(f"reading {path.name}"):
        if path.is_dir():
            weights = read_weights(path)
        else:
            checkpoint = read(path)
            check_checkpoint(module, module.policy_path, checkpoint)
            weights = checkpoint["state_dict"]
    check_weights(module, module.policy_path, {name: tuple(weight.shape) for name, weight in weights.items()})
    module.load_state_dict(weights, strict=False)


def merged(policy: Policy) -> Any:
    """Return the policy's model, with adapters merged into its weights."""
    return policy.model.merge_and_unload() if hasattr(policy.model, "merge_and_unload") else policy.model


def cast(model: Any, dtype: torch.dtype) -> None:
    """Convert all weights to one type, in place.

    Raises:
        UserError: if a weight is out of its range.
    """
    for name, weight in model.named_parameters():
        if (largest := float(weight.detach().abs().max())) > torch.finfo(dtype).max:
            raise UserError(f"--dtype {name_of(dtype)} has a maximum of {torch.finfo(dtype).max:g}, but {name} reaches "
                            f"{largest:g}; use bfloat16")  # fmt: skip
    model.to(dtype)


def save(model: Any, policy: Policy, origin: str, folder: Path) -> None:
    """Write model, processor, tokenizer and templates.

    Args:
        model: as `merged` returns it.
        policy: the policy it belongs to.
        origin: folder or Hub name of the policy that training started from.
        folder: a new folder.
    """
    model.save_pretrained(folder)
    policy.processor.save_pretrained(folder)
    if found := origin_file(origin, PROMPT_TEMPLATE):
        shutil.copy(found, folder / PROMPT_TEMPLATE)


def base_dtype(origin: str) -> str:
    """Read the weight type of the policy that training started from; single precision if it does not say."""
    from transformers import PreTrainedConfig

    config = PreTrainedConfig.get_config_dict(origin)[0]
    return str(config.get("dtype") or config.get("torch_dtype") or "float32")


def license_of(origin: str) -> str | None:
    """Read the license from the model card next to the base's weights; None if there is none."""
    from huggingface_hub import ModelCard

    path = origin_file(origin, "README.md")
    found: str | None = ModelCard.load(path, ignore_metadata_errors=True).data.license if path else None
    return found


def origin_file(origin: str, name: str) -> str | None:
    """Find a file of the policy that training started from, without using the network; None if it does not exist."""
    from transformers.utils.hub import cached_file

    found: str | None = cached_file(
        resolve_path(origin),
        name,
        local_files_only=True,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return found


def bytes_of(model: Any, dtype: torch.dtype) -> int:
    """Compute the size of the weights in a type, bytes; tied weights count once."""
    return int(sum(weight.numel() for weight in model.parameters()) * dtype.itemsize)


def check_room(output: Path, needed: int) -> None:
    """Refuse a folder on a disk without enough space.

    Raises:
        UserError: if there is not enough space.
    """
    folder = next(parent for parent in output.parents if parent.exists())
    if (free := shutil.disk_usage(folder).free) < needed:
        raise UserError(f"--output {output} needs {gigabytes(needed)}, but {gigabytes(free)} are free; give a folder "
                        "on a larger disk, or --dtype bfloat16")  # fmt: skip


def name_of(dtype: torch.dtype) -> str:
    """Return the name of a type on the command line."""
    return str(dtype).removeprefix("torch.")


def gigabytes(count: int) -> str:
    """Format bytes in decimal units, like the Hub."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
