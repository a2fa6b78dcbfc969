"""``export``: a Hugging Face folder from a checkpoint."""

import shutil
from pathlib import Path
from typing import Any

from typing_extensions import override

from lit_g2rpo.cli.line import Line
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

# files of the policy's origin that the image-only processor does not save
ALSO_COPIED = ("video_preprocessor_config.json", PROMPT_TEMPLATE)


class ExportCLI(PartsCLI):
    """Ask for the checkpoint and the folder to write."""

    @override
    def add_arguments_to_parser(self, parser: Any) -> None:
        super().add_arguments_to_parser(parser)
        parser.prog = "python -m lit_g2rpo export"
        parser.description = "Write a Hugging Face folder from a checkpoint."
        parser.add_argument(
            "--ckpt_path", type=str | None, default=None, help="Checkpoint; last or best of the experiment; a path."
        )
        parser.add_argument("--output", type=str, required=True, help="Folder to write; must be new or empty.")

    @override
    def before_instantiate_classes(self) -> None:
        if not self.config.ckpt_path:
            raise UserError("--ckpt_path is not given; give last, best or the path of a checkpoint")
        # before a large checkpoint is gone through
        output = Path(self.config.output).absolute()
        if output.exists() and (not output.is_dir() or any(output.iterdir())):
            raise UserError(f"--output {self.config.output} exists and is not empty; give a new folder")
        check_writable(output)
        super().before_instantiate_classes()


def run(verb: str, line: Line) -> None:
    """Write the policy of a checkpoint as a Hugging Face folder.

    Raises:
        UserError: if the output is not empty, or the checkpoint is missing or of another model.
    """
    cli = ExportCLI(line.words)
    output = Path(cli.config.output).absolute()
    load_weights(cli.model, Path(cli.config.ckpt_path))
    with whole(output) as part:
        save(cli.model.policy, cli.model.policy_path, part)
    print(f"{output}: policy of {cli.config.ckpt_path}, for Qwen3VLForConditionalGeneration.from_pretrained")


def load_weights(module: G2RPOModule, path: Path) -> None:
    """Load the policy and put a checkpoint's weights into it.

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


def save(policy: Policy, origin: str, folder: Path) -> None:
    """Write model, processor, tokenizer and templates.

    Args:
        policy: the policy; adapters are merged into its weights.
        origin: where it once came from.
        folder: a new folder.
    """
    model = policy.model.merge_and_unload() if hasattr(policy.model, "merge_and_unload") else policy.model
    model.save_pretrained(folder)
    policy.processor.save_pretrained(folder)
    for name in ALSO_COPIED:
        if found := origin_file(origin, name):
            shutil.copy(found, folder / name)
    own = type(policy.processor).__name__
    stock = next(kind for kind in type(policy.processor).__mro__ if kind.__module__.startswith("transformers."))
    for path in folder.glob("*.json"):
        if "rocessor_class" in (text := path.read_text()):
            # the stock classes read the folder too
            path.write_text(text.replace(f'"{own}"', f'"{stock.__name__}"'))


def origin_file(origin: str, name: str) -> str | None:
    """Find a file of the checkpoint that the policy came from, without the network.

    Args:
        origin: ``model.policy.path``.
    """
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
