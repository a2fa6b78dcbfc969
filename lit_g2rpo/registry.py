"""Objects by short name or import path: losses, engines, problem types, benchmarks, model families, custom rewards."""

import difflib
import importlib
import importlib.util
import re
import sys
from collections.abc import Iterable, Mapping
from inspect import Parameter
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from lit_g2rpo.errors import UserError

T = TypeVar("T")


def lookup(name: str, known: Mapping[str, Any], where: str) -> Any:
    """Find an object by its short name, or import it from anywhere by its path.

    Args:
        name: a key of ``known``, or an import path as `load` takes it.
        known: objects by short name; a string is the import path of an object that is imported on first use.
        where: the config key or column that holds the name, for messages.

    Returns:
        The object.

    Raises:
        UserError: if the name is unknown, or cannot be imported.
    """
    if name in known:
        found = known[name]
        return load(found, where) if isinstance(found, str) else found
    if "." not in name:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}? Known" if near else "known"
        raise UserError(f"{where} is {name!r}; {hint}: {', '.join(known)}; or give package.module.Name")
    return load(name, where)


def arguments(
    parameters: Iterable[Parameter], keys: Mapping[str, Any], options: Mapping[str, Any], where: str
) -> dict[str, Any]:
    """Collect the arguments of a class or function that was found by name.

    Args:
        keys: settings of a config; a parameter with the name of one of them gets its value.
        options: values of the object's other parameters.
        where: the config key that holds the options, for messages.

    Returns:
        The arguments by name.

    Raises:
        UserError: if an option is not one of these other parameters, or one of them has neither an option nor a
            default.
    """
    parameters = list(parameters)
    own = {parameter.name: parameter for parameter in parameters if parameter.name not in keys}
    for parameter in parameters:
        if parameter.kind in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD):
            raise UserError(f"{where}: replace {parameter} by named arguments")
    for name in options:
        if name not in own:
            raise UserError(f"{where} has {name!r}; known: {', '.join(own) or 'none'}")
    for name, parameter in own.items():
        if parameter.default is Parameter.empty and name not in options:
            raise UserError(f"{where} has no {name!r}, which is required")
    return {p.name: keys[p.name] for p in parameters if p.name in keys} | dict(options)


def build(kind: type[T], name: str, where: str, **arguments: Any) -> T:
    """Build an object of a class that was found by name.

    Raises:
        UserError: if the constructor raises any error.
    """
    try:
        return kind(**arguments)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{where} is {name!r}, which cannot be built ({one_line(error)})") from error


def one_line(error: BaseException) -> str:
    """Format an error from someone else's code as one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def load(path: str, where: str) -> Any:
    """Import an object by its path.

    Args:
        path: ``package.module.name``, or ``path/to/file.py:name``.
        where: the config key or column that holds the path, for messages.

    Returns:
        The object.

    Raises:
        UserError: if there is no such module, file or name, or the module raises an error.
    """
    file, colon, name = path.rpartition(":")
    module_name, dot, attribute = path.rpartition(".")
    if not (colon and file.endswith(".py")) and (colon or not dot):
        raise UserError(f"{where} is {path!r}; give package.module.name or path/to/file.py:name")
    try:
        module = _from_file(Path(file)) if colon else _from_path(module_name)
    except Exception as error:
        raise UserError(f"{where} is {path!r}, whose module cannot be imported ({one_line(error)})") from error
    name = name if colon else attribute
    if not hasattr(module, name):
        names = sorted(key for key, value in vars(module).items() if callable(value) and key[0] != "_")
        raise UserError(f"{where} is {path!r}, but its module has no {name!r}; it has {', '.join(names) or 'none'}")
    return getattr(module, name)


def _from_file(path: Path) -> ModuleType:
    # the whole path, since two files may have the same name
    name = "user" + re.sub(r"\W", "_", str(path.resolve().with_suffix("")))
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    if spec is None or spec.loader is None or not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _from_path(name: str) -> ModuleType:
    if (here := str(Path.cwd())) not in sys.path:
        # an installed command does not search the working directory, where a user's own module usually is
        sys.path.append(here)
    return importlib.import_module(name)


def instance(name: Any, known: Mapping[str, T], kind: type[T], what: str) -> T:
    """Find an object that a data row names by short name or import path.

    Args:
        name: a key of ``known``, or ``package.module.NAME``.
        known: objects by short name.
        kind: class that an imported object must be an instance of.
        what: the column that holds the name, for messages.

    Raises:
        UserError: if there is no such object.
    """
    if isinstance(name, str) and name in known:
        return known[name]
    if not isinstance(name, str) or "." not in name or not all(part.isidentifier() for part in name.split(".")):
        raise UserError(f"unknown {what} {name!r:.80}; known: {', '.join(known)}; or give package.module.NAME")
    found = load(name, what)
    if not isinstance(found, kind):
        raise UserError(f"{what} is {name!r}, a {type(found).__name__}; it must be a {kind.__name__}")
    return found
