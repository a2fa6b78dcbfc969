"""The parser's messages as one line that names the key and what would be right."""

import ast
import difflib
import importlib
import re
from pathlib import Path

from jsonargparse import ArgumentParser

from lit_g2rpo.cli import meant

# lines of a parser's message that describe its search, not the mistake
NOISE = re.compile(
    r"(Does not validate|Subtypes:|Errors:|Given value|Not a valid subclass|Subclass types expect|- an? |"
    r"Expected a <class 'NoneType'>|Expected a path but|Problem with given class_path|Parser key |Unable to load)"
)

COMPLETION = "print_shtab"
"""An option of older parsers that the stock parser accepts only to report that it is gone."""

PLAIN = {"model.policy", "trainer", "schedule", "checkpoint", "model.rollout", "model.update", "model.evaluation"}
"""Keys that hold settings, not a class."""

REFERENCES = "give ${schedule.rollouts} for another key, ${oc.env:NAME,10} for an environment variable, or else 10"

EXAMPLES = {"model.policy.lora": "{rank: 32, alpha: 64}, or null for none"}
"""What to write instead of a boolean for a group of keys."""


def explain(message: str, keys: list[str]) -> str:
    """Rewrite a parser's message as one line with the key, and the nearest valid key if it is misspelled.

    Args:
        keys: valid keys, dotted.
    """
    if found := re.match(r"unrecognized arguments: (\S+)", message):
        return _unrecognized(found[1].split("=")[0], keys)
    if re.match(rf"(argument )?--{COMPLETION}\b", message):
        return unknown(COMPLETION, keys)
    if found := re.search(r"does not accept (?:option|nested key) '([^']+)'", message):
        return unknown(found[1], keys)
    if found := re.match(r"argument --(\S+): expected one argument", message):
        return f"{found[1]} has no value; give one after the key"
    if found := re.match(r'Linked "([^"]+)" must be given via "([^"]+)"', message):
        return f"{found[1]} follows from {found[2].split(',')[0]}; set that instead"
    if found := re.match(r"argument .*?\((\S+?),.*--> (\S+): invalid", message):
        return f"{found[2]} follows from {found[1]}; set that instead"
    if found := re.search(r"compute_fn of link .*?(\$\{[^}]*\})", message):
        return f"a config refers to {found[1]}, which cannot be read; {REFERENCES}"
    if found := re.match(r"the following arguments are required: (.*)", message):
        missing = re.sub(r"\b(fit|validate|test|predict)\.", "", found[1])
        if "output" in missing.split(", "):
            return "--output is not given; give a new folder, such as --output exported"
        return f"not given: {missing}; start from a recipe, such as --config configs/g2rpo.yaml"
    if message.startswith("Unexpected config"):
        return "--config has no keys; give a recipe, such as configs/g2rpo.yaml"
    key = key_of(message)
    return (
        _class(key, message)
        or _value(key, message)
        or _file(key, message)
        or _typed(key, message)
        or _rest(key, message)
    )


def _unrecognized(word: str, keys: list[str]) -> str:
    """Explain a word that is in the place of a key."""
    name = re.sub(r"^[-\u2010-\u2015]+", "", word)
    if word.startswith("--"):
        return unknown(name, keys)
    if word[0] in "-\u2010\u2011\u2012\u2013\u2014\u2015":
        return f"unexpected word {word!r}; a key starts with two hyphens: --{name}"
    if word.endswith((".yaml", ".yml")):
        return f"unexpected word {word!r}; a recipe is given by --config {word}"
    return f"unexpected word {word!r}; keys start with --"


def _class(key: str, message: str) -> str:
    """Explain what is wrong with a class that a key names; empty if the message is about something else."""
    classes = re.findall(r"given class_path '([\w.]+)'|Namespace\(.*?class_path='([\w.]+)'", message)
    kind = "".join(classes[-1]) if classes else ""
    if kind and (found := re.search(r"(?:Option|Key) '([^']+)' is not (?:accepted|expected)", message)):
        return unknown(f"{key}.{found[1]}", [f"{key}.{name}" for name in arguments_of(kind)], of=kind)
    if kind and (found := re.search(r"arguments are required: ([\w, ]+)", message)):
        return f"{key} is {kind}, which needs {found[1]}; give {key}.{found[1].split(',')[0]}"
    if found := re.search(r"No module named '([\w.]+)'", message):
        package = found[1].split(".")[0]
        how = f': pip install "lit_g2rpo[{meant.EXTRAS[package]}]"' if package in meant.EXTRAS else ", or misspelled"
        return f"{key} needs the module {found[1]}, which is not installed{how}"
    if found := re.search(r"module '([\w.]+)' has no attribute '(\w+)'", message):
        hint = (near := meant.near_class(f"{found[1]}.{found[2]}")) and f"; did you mean {near}?"
        return f"{key}: module {found[1]!r} has no attribute {found[2]!r}{hint or ''}"
    if "does not correspond to a subclass of" in message:
        wanted = re.findall(r"subclass of ([\w.]+)", message)[-1]
        value = re.search(r"Given value: (\S+)$|a path but (\S+) either", message, re.MULTILINE)
        return f"{key} is {value[1] or value[2] if value else 'a class'}, which is not a {wanted}"
    return ""


def _file(key: str, message: str) -> str:
    """Explain which file does not exist; empty if the message is about something else."""
    if found := re.search(r"Path is not a file: '([^']+)'", message):
        return f"--{key}: {found[1]} is not a file"
    missing = re.search(
        r"""File does not exist: '([^']+)'|Unable to load config ['"]([^'"]+)|"""
        r"Expected a path but (\S+\.ya?ml|\S+/\S+) either not accessible|"
        r"Expected a dot import path string: (\S+)",
        message,
    )
    if not missing:
        return ""
    word = next(filter(None, missing.groups()))
    if word in ("true", "false", "True", "False"):
        return ""
    if key == "config":
        return f"--config: no such file: {word}"
    if near := meant.part(key, word):
        return f"{key}: there is no {word}; did you mean {near}?"
    if key == "model.policy":
        return f"{key}: no such file: {word}; give a file of configs/model, or --model.policy.path for a checkpoint"
    if missing[4] or "/" not in word:
        own = "its keys, each followed by a colon and a space, or a config file"
        other = "a config file or a class path such as package.module.Class"
        return f"{key}: there is no {word}; give {own if key in PLAIN else other}"
    if key == "model.judge" and "://" in word:
        return f"{key} is {word}; give its keys: --model.judge.url {word} --model.judge.model NAME"
    return f"{key}: no such file: {word}{meant.missing_file(Path(word))}"


def _value(key: str, message: str) -> str:
    """Explain which value has the wrong type; empty if the message is about something else."""
    given = re.search(r"(?:Given|Got) value: (.*?)(?:\. Got value: .*)?$", message, re.MULTILINE)
    value = given[1] if given else ""
    if "Not a valid subclass" in message or re.search(r"path string: (true|false)$", message, re.I | re.M):
        name = re.search(r"<class '[\w.]+?(\w+)'>", message)
        return f"{key} is {value.lower()}; give its keys, such as {EXAMPLES.get(key, f'those of {name and name[1]}')}"
    choices = [
        str(choice) for found in re.findall(r"Expected a \S*Literal(\[.*?\])", message) for choice in _list(found)
    ]
    if choices:
        wanted = meant.VALUES.get(key, {}).get(value.lower()) or meant.near(value, choices)
        hint = f"did you mean {wanted}? It is" if wanted in choices else "expected"
        return f"{key} is {value}; {hint} one of {', '.join(dict.fromkeys(choices))}"
    kinds = re.findall(r"Expected a <class '(int|float)'>$", message, re.MULTILINE)
    if kinds and given:
        return f"{key} is {value}; expected {' or '.join(dict.fromkeys(kinds))}"
    return ""


def _typed(key: str, message: str) -> str:
    """Describe the type that a value should have; empty if the message does not say."""
    if found := re.search(r"Expected an? (.+?)\. Got value: (.*?)(?:\. Got value: .*)?$", message, re.MULTILINE):
        kind = re.sub(r"<class '([^']+)'>|typing\.", r"\1", found[1])
        return f"{key} is {found[2]}; expected {kind}"
    return ""


def _list(text: str) -> list[str | int]:
    """Read the choices of a ``Literal``; empty if the message is cut off."""
    try:
        return list(ast.literal_eval(text))
    except (SyntaxError, ValueError):
        return []


def _rest(key: str, message: str) -> str:
    """Keep the informative lines of a message."""
    lines = [line.strip(" -") for line in message.splitlines()]
    kept = [line for line in lines if line and not NOISE.match(line)] or [line for line in lines if line]
    kept = [re.sub(r"<class '([^']+)'>", r"\1", line).replace("typing.", "") for line in kept]
    said = re.sub(r"\s+", " ", "; ".join(dict.fromkeys(kept)))
    return f"{key}: {said}" if key else said


def key_of(message: str) -> str:
    """Find the dotted key, if any, that a parser's message is about.

    Args:
        message: the message, in which a key inside a class is indented below the key of the class.
    """
    key, depth = "", -1
    for found in re.finditer(r'^(.*?)Parser key "([^"]+)"', message, re.MULTILINE):
        if len(found[1]) <= depth or found[2] == key:
            break
        key, depth = f"{key}.{found[2]}".lstrip("."), len(found[1])
    return key


def unknown(key: str, keys: list[str], of: str = "") -> str:
    """Explain in one line that a dotted key does not exist, and which valid one was probably meant.

    Args:
        of: the class the key should be an argument of, if any.
    """
    parts = key.replace("-", "_").split(".")
    options: list[str] = []
    for depth, part in enumerate(parts):
        level = {k.split(".")[depth] for k in keys if k.split(".")[:depth] == parts[:depth] and k.count(".") >= depth}
        if part in level:
            continue
        options = sorted(level)
        if near := difflib.get_close_matches(part, options, n=1):
            return f"unknown key {key}; did you mean {'.'.join([*parts[:depth], near[0], *parts[depth + 1 :]])}?"
        break
    joined = {k.replace(".", "_"): k for k in keys}
    same = [k for k in keys if k.split(".")[-1] == parts[-1]]
    if found := joined.get("_".join(parts)) or meant.ELSEWHERE.get(parts[-1]) or (same and same[0]):
        return f"unknown key {key}; did you mean {found}?"
    known = f"; {of or 'this level'} has {', '.join(options)}" if options else ""
    if other := of and meant.class_with(".".join(parts[:-1]), parts[-1]):
        known = f"; {of} has none, {other} has"
    return f"unknown key {key}{known}"


def arguments_of(class_path: str) -> list[str]:
    """List the arguments of a class."""
    module, name = class_path.rsplit(".", 1)
    parser = ArgumentParser(exit_on_error=False)
    return list(parser.add_class_arguments(getattr(importlib.import_module(module), name), fail_untyped=False))
