"""Messages from other packages that users cannot act on, each with the reason to hide it; nothing else is hidden."""

import logging
import os
import re
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from lit_g2rpo.hardware.steps import each

PACKAGE = Path(__file__).parents[1]
ENVIRONMENT = {
    # the data workers fork after the tokenizer ran; its threads are useless for batches this small
    "TOKENIZERS_PARALLELISM": "false",
    # "weight tying", "fast processor" and other notes from transformers to authors of model code
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    # announces the next major version, which Lightning cannot use and the version pin excludes
    "JSONARGPARSE_DEPRECATION_WARNINGS": "off",
    # TensorBoard's optional TensorFlow backend prints messages about CPU instructions
    "TF_CPP_MIN_LOG_LEVEL": "3",
}

WARNINGS: list[tuple[str, type[Warning]]] = [
    # images are cheap compared with generation, and workers would only take cores from it
    (r".*does not have many workers which may be a bottleneck.*", Warning),
    # the run header names the device, and the config decides why it is not a bigger one
    (r"GPU available but not used.*", Warning),
    # a logging interval is a whole number of rollouts by construction
    (r"The number of training batches .* is smaller than the logging interval.*", Warning),
    # a resumed run reuses its folder on purpose
    (r"Checkpoint directory .* exists and is not empty.*", Warning),
    # the prompt stream keeps its own position and restores it
    (r".*You're resuming from a checkpoint that ended before the epoch ended.*", Warning),
    # the engine itself switches the policy to evaluation mode and back
    (r"Found \d+ module\(s\) in eval mode at the start of training.*", Warning),
    # Lightning builds an internal tree with a function that torch has renamed
    (r".*isinstance\(treespec, LeafSpec\).*is deprecated.*", Warning),
    # peft uses the old name of a flag in transformers
    (r".*is_gradient_checkpointing.* is deprecated.*", FutureWarning),
    # not every release allowed by the version pin has the new name of this method
    (r".*gradient_checkpointing_enable.* is deprecated.*", FutureWarning),
    # metrics are summed over ranks before logging, with counts that Lightning does not know
    (r"It is recommended to use `self\.log\(.*sync_dist=True\)`.*", Warning),
    # Lightning gathers with a function that torch has renamed
    (r".*torch\.distributed\.nn\.functional\.all_gather is deprecated.*", Warning),
    # DeepSpeed calls collectives by names that torch has changed
    (r".*`torch\.distributed\.\w+` is deprecated.*", FutureWarning),
    # export can read the folder with any number of processes
    (r"When saving the DeepSpeed Stage 3 checkpoint.*", Warning),
    # TensorBoard reads protobuf descriptors in a deprecated way
    (r".*(google\.protobuf|FieldDescriptor|message_factory).*", DeprecationWarning),
    (r".*pkg_resources is deprecated.*", Warning),
    # Lightning restores schedulers with a deprecated epoch argument
    (r".*lr_scheduler\.step\(\)` before `optimizer\.step.*", UserWarning),
]

LOG_LINES = (
    "GPU available:",  # the run header names the device
    "TPU available:",
    "HPU available:",
    "💡 Tip:",  # advertises services
    "`Trainer.fit` stopped:",  # the closing table says how the run ended
    "Using default `ModelCheckpoint`",
    "Restoring states from the checkpoint path at",  # the run header names the checkpoint
    "Restored all states from the checkpoint at",
    "Loaded model weights from the checkpoint at",
    "Seed set to",  # in config.yaml
    "initializing deepspeed distributed",  # the run header names the strategy and the number of processes
    "`weights_only` was not set",  # the run only loads files that it wrote itself
    "Setting accelerator to CPU. If you have GPU",  # the run header names the hardware
    "'[Errno",  # the closing line reports that the Hub cannot be reached
    "Retrying in ",
    "The following generation flags are not valid",  # the engine sets its own sampling options
)
LOGGERS = (
    "lightning.pytorch.utilities.rank_zero",
    "lightning.fabric.utilities.rank_zero",
    "lightning.fabric.utilities.seed",
    "lightning.pytorch.trainer.connectors.checkpoint_connector",
    "lightning.pytorch.trainer.connectors.signal_connector",
    "lightning.pytorch.strategies.deepspeed",
    "transformers.generation.configuration_utils",
    "huggingface_hub.utils._http",
    "DeepSpeed",
)


def _is_wanted(record: logging.LogRecord) -> bool:
    # ranks other than the first prefix some lines with their number
    return not re.sub(r"^\[rank: \d+\] ", "", record.getMessage()).startswith(LOG_LINES)


def apply() -> None:
    """Hide the messages listed in this file."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    for message, category in WARNINGS:
        warnings.filterwarnings("ignore", message=message, category=category)
    for name in LOGGERS:
        logging.getLogger(name).addFilter(_is_wanted)


@cache
def shorten_warnings() -> None:
    """Show warnings from this project, such as alarms, without their source line."""
    usual = warnings.formatwarning

    def shown(message: Any, category: type[Warning], filename: str, *rest: Any, **options: Any) -> str:
        own = Path(filename).is_relative_to(PACKAGE)
        return f"warning: {message}\n" if own else usual(message, category, filename, *rest, **options)

    warnings.formatwarning = shown


def count_steps() -> None:
    """Show transformers' progress, such as loading weights, as steps of this project."""
    from transformers.utils import logging as transformers_logging

    def counted(factory: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if len(args) == 1 and kwargs.keys() == {"desc"}:
            return each(args[0], kwargs["desc"].lower())
        return factory(*args, **kwargs)

    transformers_logging.set_tqdm_hook(counted)
