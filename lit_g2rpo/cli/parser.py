"""The parser of the command line, whose errors are one line with the key and what would be right."""

import difflib
import importlib
import re
from pathlib import Path
from typing import Any, NoReturn

import yaml
from jsonargparse import ArgumentParser
from lightning.pytorch.cli import LightningArgumentParser
from typing_extensions import override

from lit_g2rpo.errors import UserError

# lines of a parser's message that describe its search and not the mistake
NOISE = re.compile(
    r"(Does not validate|Subtypes:|Errors:|Given value|Not a valid subclass|Subclass types expect|- an? |"
    r"Expected a <class 'NoneType'>|Expected a path but|Problem with given class_path|Parser key |Unable to load)"
)

COMPLETION = "print_shtab"
"""An option of older parsers that the stock parser takes only to say that it is gone."""


class ConfigParser(LightningArgumentParser):
    """Raise a `UserError` of one line where the stock parser prints its usage and exits."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.start = Path.cwd()
        self.unresolved = ""
        """The composed configuration, as YAML, before what it refers to was put in."""

    @override
    def dump(self, *args: Any, **kwargs: Any) -> str:
        # the parser dumps what it has composed to put in what is referred to
        text: str = super().dump(*args, **kwargs)
        if "${" in text:
            self.unresolved = text
        return text

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise the error that lies at the bottom of a parse failure.

        Raises:
            UserError: always, except from an inner parser, whose caller may have another reading of the value.
        """
        if not self.exit_on_error:
            super().error(message, ex)
        cause: BaseException | None = ex
        while cause is not None:
            if isinstance(cause, UserError):
                raise cause
            cause = cause.__cause__ or cause.__context__
        where = self.broken_file() if message.startswith(("Problems parsing config", "Unexpected config")) else ""
        raise UserError(where + explain(message, self.known_keys())) from ex

    def known_keys(self) -> list[str]:
        """List the dotted keys that a config may have, without those inside a class that the config names."""
        keys: list[str] = []
        for action in self._actions:
            for parser in (getattr(action, "_name_parser_map", None) or {}).values():
                keys += parser.known_keys()
            if action.option_strings and action.dest not in ("help", "config", "print_config", COMPLETION):
                keys.append(action.dest)
        return keys

    def broken_file(self) -> str:
        """Name the config on the command line that is not YAML, or holds no keys, with a colon; else nothing."""
        words = " ".join(self.args).replace("=", " ").split()
        for word in (word for word in words if word.endswith((".yaml", ".yml"))):
            try:
                # the parser has gone to the folder of the file it reads
                if isinstance(yaml.safe_load((self.start / word).read_text()), dict):
                    continue
            except OSError:
                continue
            except (yaml.YAMLError, UnicodeDecodeError):
                pass
            return f"{word}: "
        return ""


def explain(message: str, keys: list[str]) -> str:
    """Say a parser's message in one line that names the key, and the nearest valid one for a misspelt key.

    Args:
        keys: valid keys, dotted.
    """
    if found := re.match(r"unrecognized arguments: (\S+)", message):
        word = found[1].split("=")[0]
        return (
            unknown(word.lstrip("-"), keys) if word.startswith("-") else f"unexpected word {word!r}; keys start with --"
        )
    if re.match(rf"(argument )?--{COMPLETION}\b", message):
        return unknown(COMPLETION, keys)
    if found := re.search(r"does not accept (?:option|nested key) '([^']+)'", message):
        return unknown(found[1], keys)
    if found := re.match(r'Linked "([^"]+)" must be given via "([^"]+)"', message):
        return f"{found[1]} follows from {found[2].split(',')[0]}; set that instead"
    if found := re.match(r"the following arguments are required: (.*)", message):
        missing = re.sub(r"\b(fit|validate|test|predict)\.", "", found[1])
        return f"not given: {missing}; start from a recipe, such as --config configs/g2rpo.yaml"
    if message.startswith("Unexpected config"):
        return "--config holds no keys; give a recipe, such as configs/g2rpo.yaml"
    key = key_of(message)
    if found := re.search(r"Path is not a file: '([^']+)'", message):
        return f"--{key}: {found[1]} is no file"
    if found := re.search(r"File does not exist: '([^']+)'|Unable to load config '([^']+)'", message):
        return f"{key}: no such file: {found[1] or found[2]}".replace("config:", "--config:", 1)
    if found := re.search(r"Expected a path but (\S+\.ya?ml|\S+/\S+) either not accessible", message):
        return f"{key}: no such file: {found[1]}"
    classes = re.findall(r"given class_path '([\w.]+)'", message)
    if classes and (found := re.search(r"(?:Option|Key) '([^']+)' is not (?:accepted|expected)", message)):
        return unknown(f"{key}.{found[1]}", [f"{key}.{name}" for name in arguments_of(classes[-1])], of=classes[-1])
    if (kinds := re.findall(r"Expected a <class '(int|float)'>$", message, re.MULTILINE)) and (
        found := re.search(r"Given value: (.*?)(?:\. Got value: .*)?$", message, re.MULTILINE)
    ):
        return f"{key} is {found[1]}; expected {' or '.join(dict.fromkeys(kinds))}"
    if found := re.search(r"Expected a dot import path string: (\S+)", message):
        return f"{key}: there is no {found[1]}; give a config file or a class path such as package.module.Class"
    if found := re.search(r"Expected an? (.+?)\. Got value: (.*?)(?:\. Got value: .*)?$", message, re.MULTILINE):
        kind = re.sub(r"<class '([^']+)'>|typing\.", r"\1", found[1])
        kind = re.sub(r"Literal\[(.*?)\]", lambda words: "one of " + words[1].replace("'", ""), kind)
        return f"{key} is {found[2]}; expected {kind}"
    lines = [line.strip(" -") for line in message.splitlines()]
    kept = [line for line in lines if line and not NOISE.match(line)] or [line for line in lines if line]
    kept = [re.sub(r"<class '([^']+)'>", r"\1", line).replace("typing.", "") for line in kept]
    said = re.sub(r"\s+", " ", "; ".join(dict.fromkeys(kept)))
    return f"{key}: {said}" if key else said


def key_of(message: str) -> str:
    """Find the dotted key, or none, that a parser's message is about.

    Args:
        message: a key inside a class is indented below the key of the class.
    """
    key, depth = "", -1
    for found in re.finditer(r'^(.*?)Parser key "([^"]+)"', message, re.MULTILINE):
        if len(found[1]) <= depth:
            break
        key, depth = f"{key}.{found[2]}".lstrip("."), len(found[1])
    return key


def unknown(key: str, keys: list[str], of: str = "") -> str:
    """Say in one line that a dotted key does not exist, and which of the valid ones is meant.

    Args:
        of: the class the key should be an argument of, if any.
    """
    parts = key.split(".")
    options: list[str] = []
    for depth, part in enumerate(parts):
        level = {k.split(".")[depth] for k in keys if k.split(".")[:depth] == parts[:depth] and k.count(".") >= depth}
        if part in level:
            continue
        options = sorted(level)
        if near := difflib.get_close_matches(part, options, n=1):
            return f"unknown key {key}; did you mean {'.'.join([*parts[:depth], near[0], *parts[depth + 1 :]])}?"
        break
    if same := [k for k in keys if k.split(".")[-1] == parts[-1]]:
        return f"unknown key {key}; did you mean {same[0]}?"
    return f"unknown key {key}" + (f"; {of or 'this level'} has {', '.join(options)}" if options else "")


def arguments_of(class_path: str) -> list[str]:
    """Name the arguments of a class."""
    module, name = class_path.rsplit(".", 1)
    parser = ArgumentParser(exit_on_error=False)
    return list(parser.add_class_arguments(getattr(importlib.import_module(module), name), fail_untyped=False))
