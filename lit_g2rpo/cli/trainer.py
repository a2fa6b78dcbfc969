"""The verbs that run the trainer: only their arguments and the links between these."""

import json
import re
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import get_loader, set_loader
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.utilities import rank_zero_only
from omegaconf.errors import OmegaConfBaseException
from typing_extensions import override

from lit_g2rpo.callbacks import LengthCurriculum
from lit_g2rpo.callbacks.run_folder import FolderInUse, RunFolder, anchor
from lit_g2rpo.cli import quiet
from lit_g2rpo.cli.changes import admit, check_steps, find_changes
from lit_g2rpo.cli.checkpoints import find_checkpoint, read_state, remove_new
from lit_g2rpo.cli.derived import log_every_n_steps, max_steps, seed, val_check_interval
from lit_g2rpo.cli.explain import REFERENCES
from lit_g2rpo.cli.line import Line
from lit_g2rpo.cli.packaged import located_values
from lit_g2rpo.cli.parser import ConfigParser
from lit_g2rpo.cli.place import Place
from lit_g2rpo.cli.recipe import RecipeCallback, recipe_of
from lit_g2rpo.cli.trainer_keys import ON_CPU, check_callbacks, check_length, check_machine, check_name
from lit_g2rpo.cli.words import SHORT, split_key, task_words
from lit_g2rpo.data.datamodule import PromptData, PromptUser
from lit_g2rpo.errors import UserError
from lit_g2rpo.files import check_writable
from lit_g2rpo.hardware.hooks import reads_folders
from lit_g2rpo.hardware.output import lossy_output
from lit_g2rpo.loggers import RunLogger
from lit_g2rpo.module import G2RPOModule
from lit_g2rpo.registry import one_line
from lit_g2rpo.strategies import check_deepspeed, check_xla_precision, end_ranks, leave_time_to_end
from lit_g2rpo.training import schedule
from lit_g2rpo.training.records import LAST
from lit_g2rpo.training.run import Run

# what data and training need from the module
_: tuple[type[PromptUser], type[Run]] = (G2RPOModule, G2RPOModule)

PARSER: dict[str, Any] = {"parser_mode": "omegaconf+", "prog": "python -m lit_g2rpo"}
# like the stock loader of this mode, but recipes may name fragments of the package
set_loader(PARSER["parser_mode"], lambda text: located_values(get_loader("yaml")(text)), (yaml.YAMLError,))


class NothingToDoError(Exception):
    """The run has already done all its rollouts, as the message says."""


class TrainerCLI(LightningCLI):
    """Build the parts from the config and run one verb on them.

    Args:
        verb: the verb; None for one of the project's own, which adds its arguments and runs itself.
        arguments: the words after the verb.
        run_folder: folder of the run to continue; None if the config determines it.
        change: keys that a resumed run may change even though that makes it a different run.
    """

    def __init__(
        self, verb: str | None, arguments: list[str], run_folder: Path | None = None, change: tuple[str, ...] = ()
    ) -> None:
        self.verb, self.run_folder, self.change = verb, run_folder, change
        arguments = ["--help"] if arguments == ["--help=all"] else arguments
        quiet.count_steps()
        quiet.shorten_warnings()
        super().__init__(
            G2RPOModule,
            PromptData,
            save_config_callback=RecipeCallback if verb else None,
            trainer_defaults={"max_epochs": -1, "check_val_every_n_epoch": None, "callbacks": [RunFolder()]},
            seed_everything_default=0,
            parser_kwargs=PARSER | ({verb: PARSER} if verb else {}),
            parser_class=ConfigParser,
            subclass_mode_data=True,
            args=[verb, *arguments] if verb else arguments,
            run=verb is not None,
            auto_configure_optimizers=False,
            # otherwise the values in a checkpoint would silently override the config
            load_from_checkpoint_support=False,
        )

    @override
    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        # only the requested verb, since building a parser takes a second
        known = {verb: skipped | {"verbose"} for verb, skipped in LightningCLI.subcommands().items()}
        return {self.verb: known[self.verb]} if self.verb else known

    @override
    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        # PredictionWriter prints the table, which Lightning's own would repeat with a row for every metric
        quiet = {"verbose": False} if subcommand in ("validate", "test") else {}
        return super()._prepare_subcommand_kwargs(subcommand) | quiet

    @override
    def parse_arguments(self, parser: Any, args: Any) -> None:
        # the command line's settings of a task are merged over those in files
        args, said = task_words(args)
        if said:
            before = parser.parse_args([word for word in args if not word.startswith("--print_config")])
            settings = (before[self.verb] if self.verb else before).data.init_args.get("tasks") or {}
            tasks = {name: {**(settings.get(name) or {}), **keys} for name, keys in said.items()}
            args = [*args, f"--data.tasks={json.dumps(settings | tasks)}"]
        try:
            self.config = parser.parse_args(args)
        except OmegaConfBaseException as error:
            where = (getattr(error, "full_key", None) or "a config").removeprefix(f"{self.verb}.")
            raise UserError(f"{where}: {one_line(error).partition(' full_key')[0]}; {REFERENCES}") from error
        except UnicodeDecodeError:
            raise UserError(f"{parser.broken_file()}a config must be a text in UTF-8") from None
        if self.verb:
            # without references, this equals the composed config
            text = parser.unresolved or parser.dump(self.config, skip_validation=True, skip_unset=False)
            self.save_config_kwargs = {"recipe": recipe_of(yaml.safe_load(text)[self.verb]), "verb": self.verb}

    @override
    def _parse_ckpt_path(self) -> None:
        """Do not read a config from a checkpoint, which has none and is not verified yet."""

    @override
    def instantiate_trainer(self, **kwargs: Any) -> Any:
        settings = self.settings.trainer
        check_machine(settings)
        if self.verb == "fit":
            check_length(settings)
            if not check_callbacks(settings):
                say(
                    "trainer.callbacks has no RolloutCheckpoint: this run keeps no checkpoint to resume from; a list "
                    "given as trainer.callbacks replaces the recipe's, --trainer.callbacks+= adds to it"
                )
        try:
            trainer = super().instantiate_trainer(**kwargs)
        except (MisconfigurationException, ImportError, RuntimeError, TypeError, ValueError) as error:
            if "gpu backend" in str(error) or "can not run on your system" in str(error):
                raise UserError(
                    f"trainer.accelerator is {settings.accelerator}, but torch finds none on this machine; leave out "
                    f"the fragment of configs/strategy that asks for it, or {ON_CPU}"
                ) from error
            # a device, strategy or precision that does not exist
            raise UserError(f"trainer: {' '.join(str(error).split())}") from error
        for logger in trainer.loggers[1:]:
            if isinstance(logger, RunLogger) and trainer.loggers[0].log_dir:
                logger.lie_in(Path(trainer.loggers[0].log_dir))
        anchor(trainer)
        return trainer

    @override
    def add_arguments_to_parser(self, parser: Any) -> None:
        parser.add_argument("--name", type=str, default="g2rpo", help="Name of the experiment; runs share a folder.")
        parser.add_class_arguments(schedule.Schedule, "schedule")
        parser.add_class_arguments(schedule.Checkpoints, "checkpoint")
        sizes = ("model.update.epochs", "model.update.microbatches", "trainer.accumulate_grad_batches")
        for key, compute in {"max_steps": max_steps, "log_every_n_steps": log_every_n_steps}.items():
            interval = "schedule.rollouts" if key == "max_steps" else "schedule.log_every"
            parser.link_arguments((interval, *sizes, "trainer"), f"trainer.{key}", compute)
        parser.link_arguments(
            ("schedule.validate_every", *sizes[:2], "trainer"), "trainer.val_check_interval", val_check_interval
        )
        parser.link_arguments(("seed_everything", "model.rollout"), "model.rollout.seed", seed)

    @property
    def settings(self) -> Any:
        """The composed config of the verb."""
        return self.config[self.verb] if self.verb else self.config

    @override
    def before_instantiate_classes(self) -> None:
        """Determine the checkpoint and the folder of the run, and refuse settings that would raise inside Lightning."""
        config = self.settings
        check_name(config.name)
        check_xla_precision(config.trainer.strategy, config.trainer.precision)
        place = Place(config.trainer)
        place.fill_names(config.name)
        if config.get("ckpt_path"):
            run = self.run_folder or place.run_of_configs(config.get("config") or [])
            newest = config.ckpt_path == "last"
            path = find_checkpoint(config.ckpt_path, place.experiment, run)
            config.ckpt_path = str(path)
            if self.verb == "fit":
                self._compare(path)
            # training from any checkpoint but the newest starts a new run, so that nothing is overwritten
            if self.verb != "fit" or newest or path.name == LAST:
                place.go_on(path, self.run_folder)

    def _compare(self, path: Path) -> None:
        """List the differences from a resumed run's checkpoint, and refuse those that are not allowed."""
        saved, recipe = read_state(path), self.save_config_kwargs["recipe"]
        rollout, inside = saved["g2rpo"]["rollout_index"], "experience" in saved["g2rpo"]
        if "recipe" in saved:
            lines = admit(find_changes(saved["recipe"], recipe), inside, self.change)
            check_steps(saved["recipe"], recipe)
        else:
            lines = [f"--ckpt_path {path} has no configuration to compare this run's with"]
        rollouts = self.settings.schedule.rollouts
        if rollout >= rollouts and not inside:
            more = "--more N" if self.run_folder else f"--run {path.absolute().parent.parent} --more N"
            raise NothingToDoError(f"{rollout} of {rollouts} rollouts are done; to continue, add {more}")
        self.save_config_kwargs |= {"rollout": rollout, "lines": lines}

    @override
    def after_instantiate_classes(self) -> None:
        """Check the sizes that depend on the number of ranks, and that relative bands will have their lengths."""
        curriculum = any(isinstance(callback, LengthCurriculum) for callback in self.trainer.callbacks)  # type: ignore[attr-defined]
        for name, task in self.datamodule.tasks.items():
            relative = task.relative_length
            if self.verb == "fit" and relative is not None and relative.unit == "start" and not curriculum:
                raise UserError(
                    f"data.tasks.{name}.length is relative to the mean length at the start, which the callback "
                    "LengthCurriculum measures: add it to trainer.callbacks, or give tokens"
                )
        ckpt_path, strategy = self.settings.get("ckpt_path"), self.trainer.strategy
        check_deepspeed(strategy, self.trainer.accelerator, ckpt_path)
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
        # a mistake found before the first step leaves no run folder and no waiting rank behind
        folders = [Path(logger.log_dir) for logger in self.trainer.loggers if logger.log_dir]
        new = [folder for folder in folders if not folder.exists()]
        for folder in folders:
            check_writable(folder)
        leave_time_to_end()
        try:
            super()._run_subcommand(subcommand)
        except Exception as error:
            mistake = isinstance(error, UserError | MisconfigurationException) and not isinstance(error, FolderInUse)
            if mistake and self.trainer.is_global_zero and self.trainer.global_step == 0:
                remove_new(new)
            end_ranks(self.trainer, error)
            raise


@rank_zero_only
def say(line: str) -> None:
    """Print a line once, however many ranks there are."""
    print(line, flush=True)


def run(verb: str, line: Line) -> None:
    """Run ``fit``, ``validate``, ``test`` or ``predict``.

    Raises:
        UserError: if a part of the config is wrong.
    """
    words = line.words
    if verb != "fit":
        words = [SHORT.get(key, key) + rest for key, rest in map(split_key, words)]
    try:
        with lossy_output():
            TrainerCLI(verb, words, line.run, line.change)
    except NothingToDoError as done:
        say(str(done))
    except MisconfigurationException as error:
        raise UserError(" ".join(str(error).split())) from error
    except ValueError as error:
        raise unwrapped(error) from error


def unwrapped(error: ValueError) -> Exception:
    """Find the error of a part that failed to build, which the parser wraps.

    Returns:
        The part's own `UserError`, one that names the part, or the error itself.
    """
    cause: BaseException = error
    while not isinstance(cause, UserError) and (deeper := cause.__cause__ or cause.__context__):
        cause = deeper
    if isinstance(cause, UserError):
        return cause
    part = re.search(r"given class_path '([\w.]+)'", str(error))
    return UserError(f"{part[1]} cannot be built: {one_line(cause)}") if part else error
