"""The parts that verbs without a trainer build from a config."""

from typing_extensions import override

from lit_g2rpo.cli.trainer import TrainerCLI


class PartsCLI(TrainerCLI):
    """Build the module and the data of a run, without its trainer.

    Args:
        arguments: the words after the verb.
    """

    def __init__(self, arguments: list[str]) -> None:
        super().__init__(None, arguments)

    @override
    def instantiate_classes(self) -> None:
        built = self.parser.instantiate(self.config)
        self.model, self.datamodule = built.model, built.data

    @override
    def after_instantiate_classes(self) -> None:
        """Skip the checks, since there is no trainer."""
