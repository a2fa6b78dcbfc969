"""The verbs that run the trainer: arguments, links between them, and nothing else."""

import json
import re
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import LightningCLI
from typing_extensions import override

from lit_g2rpo.callbacks import LengthCurriculum
from lit_g2rpo.callbacks.run_folder import FolderInUse, RunFolder, anchor
from lit_g2rpo.cli import quiet
from lit_g2rpo.cli.checkpoints import find_checkpoint, remove_new, run_folder_of, version_of
from lit_g2rpo.cli.output import lossy_output
from lit_g2rpo.cli.parser import ConfigParser
from lit_g2rpo.data.datamodule import PromptData, PromptUser
from lit_g2rpo.errors import UserError
from lit_g2rpo.files import check_writable
from lit_g2rpo.hardware.hooks import reads_folders
from lit_g2rpo.module import G2RPOModule
from lit_g2rpo.strategies import check_deepspeed, check_xla_precision, end_ranks
from lit_g2rpo.training import schedule
from lit_g2rpo.training.checkpoint_files import LAST
from lit_g2rpo.training.run import Run

SHORT = {
    "--limit": "--data.limit",
    "--repeats": "--model.evaluation.repeats",
    "--baseline": "--model.evaluation.baseline",
}
"""Short names of keys that only evaluation has."""

TASK_KEY = re.compile(r"--data\.(?:init_args\.)?tasks\.(?P<task>[^.=]+)\.(?P<key>[^.=]+)(?:=(?P<value>.*))?", re.DOTALL)

# what data and training ask of the module
_: tuple[type[PromptUser], type[Run]] = (G2RPOModule, G2RPOModule)

PARSER: dict[str, Any] = {"parser_mode": "omegaconf+", "prog": "python -m lit_g2rpo"}


class TrainerCLI(LightningCLI):
    """Build the parts from the configuration and run one verb on them.

    Args:
        verb: the verb; None for a verb of the project's own, which adds its arguments and runs itself.
        arguments: the words after the verb.
    """

    def __init__(self, verb: str | None, arguments: list[str]) -> None:
        self.verb = verb
        super().__init__(
            G2RPOModule,
            PromptData,
            # a resumed run continues in its own folder; what else is done there keeps a config of its own
            save_config_kwargs={"overwrite": True, "config_filename": f"{'config' if verb == 'fit' else verb}.yaml"},
            trainer_defaults={"max_epochs": -1, "check_val_every_n_epoch": None, "callbacks": [RunFolder()]},
            seed_everything_default=0,
            parser_kwargs=PARSER | ({verb: PARSER} if verb else {}),
            parser_class=ConfigParser,
            subclass_mode_data=True,
            args=[verb, *arguments] if verb else arguments,
            run=verb is not None,
            auto_configure_optimizers=False,
            # otherwise the values in a checkpoint silently beat the configuration
            load_from_checkpoint_support=False,
        )

    @override
    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        # the one verb that was asked for, since building a parser takes a second
        known = {verb: skipped | {"verbose"} for verb, skipped in LightningCLI.subcommands().items()}
        return {self.verb: known[self.verb]} if self.verb else known

    @override
    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        # PredictionWriter prints the table: Lightning's own repeats it with a row for every metric
        quiet = {"verbose": False} if subcommand in ("validate", "test") else {}
        return super()._prepare_subcommand_kwargs(subcommand) | quiet

    @override
    def parse_arguments(self, parser: Any, args: Any) -> None:
        # what the command line says of one task is laid over what the files say of it
        args, said = task_words(args)
        if said:
            before = parser.parse_args([word for word in args if not word.startswith("--print_config")])
            settings = (before[self.verb] if self.verb else before).data.init_args.get("tasks") or {}
            tasks = {name: {**(settings.get(name) or {}), **keys} for name, keys in said.items()}
            args = [*args, f"--data.tasks={json.dumps(settings | tasks)}"]
        try:
            self.config = parser.parse_args(args)
        except UnicodeDecodeError:
            raise UserError(f"{parser.broken_file()}a config must be a text in UTF-8") from None

    @override
    def _parse_ckpt_path(self) -> None:
        """Read no configuration from a checkpoint: it holds none, and is not proven yet."""

    @override
    def instantiate_trainer(self, **kwargs: Any) -> Any:
        try:
            trainer = super().instantiate_trainer(**kwargs)
        except (TypeError, ValueError) as error:
            # a device or strategy that does not exist
            raise UserError(f"trainer: {' '.join(str(error).split())}") from error
        anchor(trainer)
        return trainer

    @override
    def add_arguments_to_parser(self, parser: Any) -> None:
        parser.add_argument("--name", type=str, default="g2rpo", help="Name of the experiment: its runs lie together.")
        parser.add_class_arguments(schedule.Schedule, "schedule")
        sizes = ("model.update.epochs", "model.update.microbatches", "trainer.accumulate_grad_batches")
        for key, compute in {"max_steps": max_steps, "log_every_n_steps": log_every_n_steps}.items():
            interval = "schedule.rollouts" if key == "max_steps" else "schedule.log_every"
            parser.link_arguments((interval, *sizes, "trainer"), f"trainer.{key}", compute)
        parser.link_arguments(
            ("schedule.validate_every", *sizes[:2], "trainer"), "trainer.val_check_interval", val_check_interval
        )
        parser.link_arguments(("seed_everything", "model.rollout"), "model.rollout.seed", seed)

    @override
    def before_instantiate_classes(self) -> None:
        """Settle which checkpoint is meant and which folder the run lies in; refuse what Lightning would only raise."""
        config = self.config[self.verb] if self.verb else self.config
        check_xla_precision(config.trainer.strategy, config.trainer.precision)
        if not config.get("ckpt_path"):
            return
        logger = config.trainer.logger
        arguments = logger.get("init_args") if hasattr(logger, "get") else None
        experiment = Path("runs")
        if arguments is not None and arguments.get("save_dir"):
            experiment = Path(arguments.save_dir) / (arguments.get("name") or "")
        run = None
        if arguments is not None and arguments.get("version") is not None:
            version = arguments.version
            run = experiment / (version if isinstance(version, str) else f"version_{version}")
        else:
            for path in config.get("config") or []:
                run = run_folder_of(Path(str(path.absolute if hasattr(path, "absolute") else path)), experiment) or run
        newest = config.ckpt_path == "last"
        path = find_checkpoint(config.ckpt_path, experiment, run)
        config.ckpt_path = str(path)
        run = run_folder_of(path, experiment)
        continues = self.verb != "fit" or newest or path.name == LAST
        if arguments is not None and "version" in arguments and arguments.version is None and run and continues:
            arguments.version = version_of(run)

    @override
    def after_instantiate_classes(self) -> None:
        """Check the sizes that need to know the number of ranks, and that what bands refer to will be measured."""
        curriculum = any(isinstance(callback, LengthCurriculum) for callback in self.trainer.callbacks)  # type: ignore[attr-defined]
        for name, task in self.datamodule.tasks.items():
            relative = task.relative_length
            if self.verb == "fit" and relative is not None and relative.unit == "start" and not curriculum:
                raise UserError(
                    f"data.tasks.{name}.length is relative to the mean length at the start, which the callback "
                    "LengthCurriculum measures: add it to trainer.callbacks, or give tokens"
                )
        config = self.config[self.verb] if self.verb else self.config
        ckpt_path, strategy = config.get("ckpt_path"), self.trainer.strategy
        check_deepspeed(strategy, ckpt_path)
        if self.verb == "fit":
            check_length(config.trainer)
        if ckpt_path and Path(ckpt_path).is_dir() and not reads_folders(strategy):
            raise UserError(
                f"--ckpt_path {ckpt_path} is a folder; give a checkpoint in it, or the strategy that wrote it as folder"
            )
        schedule.check_sizes(
            self.model.rollout.prompts,
            self.trainer.num_devices * self.trainer.num_nodes,
            self.model.update.microbatches,
            self.trainer.accumulate_grad_batches,
        )

    @override
    def _run_subcommand(self, subcommand: str) -> None:
        # a mistake found before the first step leaves no run folder behind, and no rank waits
        folders = [Path(logger.log_dir) for logger in self.trainer.loggers if logger.log_dir]
        new = [folder for folder in folders if not folder.exists()]
        for folder in folders:
            check_writable(folder)
        try:
            super()._run_subcommand(subcommand)
        except Exception as error:
            mistake = isinstance(error, UserError | MisconfigurationException) and not isinstance(error, FolderInUse)
            if mistake and self.trainer.is_global_zero and self.trainer.global_step == 0:
                remove_new(new)
            end_ranks(self.trainer, error)
            raise


def check_length(trainer: Namespace) -> None:
    """Refuse keys of Lightning's trainer that would end a run, or thin its data, against the schedule.

    Raises:
        UserError: if one is set.
    """
    for key, neutral in {
        "max_epochs": (None, -1),
        "limit_train_batches": (None, 1.0),
        "overfit_batches": (0.0,),
    }.items():
        value = trainer.get(key)
        if value not in neutral:
            raise UserError(f"trainer.{key} is {value}; leave it out: the length of a run is schedule.rollouts")


def derived(key: str, value: int, group: Namespace, owner: str) -> int:
    """Return a derived value; one that was also given would be overruled in silence.

    Args:
        key: the derived key, dotted.
        group: the group that holds the key.
        owner: the key it is derived from.

    Raises:
        UserError: if the group has another value for the key.
    """
    given = group.get(key.rsplit(".", 1)[1])
    if given is not None and given != value:
        raise UserError(f"{key} is given as {given} but follows from {owner} ({value}); set {owner} instead")
    return value


def max_steps(rollouts: int, epochs: int, microbatches: int, accumulate: int, trainer: Namespace) -> int:
    """Compute the length of the run in optimizer steps, as `schedule.max_steps` does."""
    value = schedule.max_steps(rollouts, epochs, microbatches, accumulate)
    return derived("trainer.max_steps", value, trainer, "schedule.rollouts")


def val_check_interval(validate_every: int, epochs: int, microbatches: int, trainer: Namespace) -> int:
    """Compute the validation interval in micro-batches, as `schedule.val_check_interval` does."""
    value = schedule.val_check_interval(validate_every, epochs, microbatches)
    return derived("trainer.val_check_interval", value, trainer, "schedule.validate_every")


def log_every_n_steps(log_every: int, epochs: int, microbatches: int, accumulate: int, trainer: Namespace) -> int:
    """Compute the logging interval in optimizer steps, as `schedule.log_every_n_steps` does."""
    value = schedule.log_every_n_steps(log_every, epochs, microbatches, accumulate)
    return derived("trainer.log_every_n_steps", value, trainer, "schedule.log_every")


def seed(seed_everything: bool | int, rollout: Namespace) -> int:
    """Seed sampling as everything else.

    Raises:
        UserError: if it is not a number.
    """
    if isinstance(seed_everything, bool):
        word = str(seed_everything).lower()
        raise UserError(f"seed_everything is {word}; give a whole number, since every completion follows from it")
    if not 0 <= seed_everything < 2**32:
        raise UserError(f"seed_everything is {seed_everything}; it must be from 0 to {2**32 - 1}")
    return derived("model.rollout.seed", seed_everything, rollout, "seed_everything")


def task_words(arguments: list[str]) -> tuple[list[str], dict[str, dict[str, Any]]]:
    """Take out the words that set one key of one task, which the parser's nested keys do not reach.

    Returns:
        The other words, and the values by task and key.

    Raises:
        UserError: if a key has no value, or one that is not YAML.
    """
    others: list[str] = []
    said: dict[str, dict[str, Any]] = {}
    words = iter(arguments)
    for word in words:
        if not (found := TASK_KEY.fullmatch(word)):
            others.append(word)
            continue
        value = next(words, None) if found["value"] is None else found["value"]
        where = f"data.tasks.{found['task']}.{found['key']}"
        if value is None or value.startswith("--"):
            raise UserError(f"{where} has no value; give it behind the key")
        try:
            said.setdefault(found["task"], {})[found["key"]] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise UserError(f"{where} is {value!r}, which is not YAML") from None
    return others, said


def split_key(word: str) -> tuple[str, str]:
    """Split ``--key=value`` into ``--key`` and ``=value``; other words have no second part."""
    key, equals, value = word.partition("=")
    return key, equals + value


def run(verb: str, arguments: list[str]) -> None:
    """Run ``fit``, ``validate``, ``test`` or ``predict``.

    Raises:
        UserError: if a part of the configuration is wrong.
    """
    quiet.shorten_bars()
    if verb != "fit":
        arguments = [SHORT.get(key, key) + rest for key, rest in map(split_key, arguments)]
    try:
        with lossy_output():
            TrainerCLI(verb, ["--help"] if arguments == ["--help=all"] else arguments)
    except MisconfigurationException as error:
        raise UserError(" ".join(str(error).split())) from error
    except ValueError as error:
        # the parser wraps what a part says while it is built
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, UserError):
            cause = cause.__cause__ or cause.__context__
        if cause is None:
            raise
        raise cause from None
