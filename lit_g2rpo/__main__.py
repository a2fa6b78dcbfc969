"""The command line: finds the verb and runs it, with no heavy imports before the verb is known."""

import difflib
import gc
import importlib
import os
import sys
from collections.abc import Sequence
from types import ModuleType

import lit_g2rpo
from lit_g2rpo.errors import NonFiniteError, RankError, UserError

VERBS: dict[str, tuple[str, str]] = {
    "fit": ("lit_g2rpo.cli.trainer:run", "train the policy"),
    "sweep": ("lit_g2rpo.cli.verbs.sweep:run", "train with several seeds and values of keys, and compare the runs"),
    "validate": ("lit_g2rpo.cli.trainer:run", "score the policy on the validation prompts, per task"),
    "test": ("lit_g2rpo.cli.trainer:run", "score it on the test prompts and write predictions and metrics"),
    "predict": ("lit_g2rpo.cli.trainer:run", "write completions for a file of prompts"),
    "export": ("lit_g2rpo.cli.verbs.export:run", "write a Hugging Face folder from a checkpoint"),
    "serve": ("lit_g2rpo.cli.verbs.serve:run", "start a vLLM server for a run's rollouts"),
    "plan": ("lit_g2rpo.cli.verbs.plan:run", "say what memory a run will take, without its weights"),
    "calibrate": ("lit_g2rpo.cli.verbs.calibrate:run", "measure the starting policy and propose bands"),
    "data": ("lit_g2rpo.cli.verbs.data:main", "check rows, or convert them: data check, data convert"),
    "reward": ("lit_g2rpo.cli.verbs.reward:main", "score canned completions and show the parts: reward test"),
    "score": ("lit_g2rpo.cli.verbs.score:main", "score predictions again, without the model"),
    "compare": ("lit_g2rpo.cli.verbs.compare:main", "compare runs over seeds: tables, a file and a page"),
    "recipes": ("lit_g2rpo.cli.verbs.recipes:main", "list the recipes and fragments of the package, or copy them"),
    "eval-export": ("lit_g2rpo.cli.verbs.eval_export:main", "write the commands that run lmms-eval and VLMEvalKit"),
}
"""Module of each verb: ``run`` takes configs, as a `Line`; ``main`` parses its own command line."""

ELSEWHERE = {"train": "fit", "resume": "fit", "eval": "test", "evaluate": "test", "generate": "predict"}
"""Verbs by their name in other trainers."""


def usage() -> str:
    """Describe the verbs.

    Returns:
        The text of the bare ``--help``.
    """
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {verb:<{width}}  {summary}" for verb, (_, summary) in VERBS.items())
    return (
        "usage: python -m lit_g2rpo VERB [--config FILE ... | --run FOLDER] [--KEY VALUE ...]\n"
        "       python -m lit_g2rpo --version\n\n"
        "Gaussian GRPO for vision-language models.\n\n"
        f"verbs:\n{verbs}\n\n"
        "VERB --help lists its keys; VERB --config FILE --print_config prints the resulting configuration.\n"
        "first run: python -m lit_g2rpo fit --config package:g2rpo.yaml\n"
        "to resume it: python -m lit_g2rpo fit --run runs/g2rpo/version_0"
    )


def dispatch(verb: str, arguments: list[str]) -> None:
    """Run a verb.

    Args:
        verb: the first word of the command line.
        arguments: the words after it.

    Raises:
        UserError: if there is no such verb.
    """
    if verb not in VERBS:
        near = [ELSEWHERE[verb]] if verb in ELSEWHERE else difflib.get_close_matches(verb, VERBS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"the verbs are {', '.join(VERBS)}"
        what = "the verb comes first: python -m lit_g2rpo fit ..." if verb.startswith("-") else hint
        raise UserError(f"unknown verb {verb!r}; {what}")
    module, function = VERBS[verb][0].split(":")
    if function == "main":
        importlib.import_module(module).main(arguments)
        return
    if arguments and set(arguments) <= {"-h", "--help"}:
        from lit_g2rpo.cli.help import verb_help

        print(verb_help(verb, VERBS[verb][1]))
        return
    from lit_g2rpo.cli.line import read_line

    line = read_line(verb, arguments)
    # Threads that spin while waiting for each other made small models 30 times slower on a busy machine; large ones
    # compute on a GPU. This must be set before torch is imported.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from lit_g2rpo.cli import quiet
    from lit_g2rpo.hardware.parent import end_with_first_rank
    from lit_g2rpo.hardware.steps import first_rank

    end_with_first_rank()
    quiet.apply()
    # programs may read what these print
    if first_rank() and not any("help" in word or word.startswith("--print_config") for word in arguments):
        print(f"{verb}: loading PyTorch, Lightning and Transformers ...", flush=True)
    getattr(without_collection(module), function)(verb, line)


def without_collection(module: str) -> ModuleType:
    """Import a module without garbage collection, which takes a sixth of a large import's time and frees nothing."""
    gc.disable()
    try:
        return importlib.import_module(module)
    finally:
        gc.enable()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, and report a user's mistake in one line.

    Args:
        arguments: the words after the program's name; None for those of the process.

    Returns:
        The exit code: 0 for success, 1 if another rank has failed, 2 for a user's mistake, 3 if numbers stopped being
        finite.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if not words or words[0] in ("-h", "--help"):
            print(usage(), flush=True)
            return 0 if words else 2
        if words == ["--version"]:
            print(f"lit_g2rpo {lit_g2rpo.__version__}")
            return 0
        dispatch(words[0], words[1:])
    except BrokenPipeError:
        # the reader closed the pipe, having seen enough; drop what is left in the buffer
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (UserError, NonFiniteError, RankError) as error:
        if os.environ.get("LIT_G2RPO_TRACEBACK") == "1":
            raise
        notes = "".join(f" ({note})" for note in getattr(error, "__notes__", []))
        print(f"error: {error}{notes}", file=sys.stderr)
        return 2 if isinstance(error, UserError) else 3 if isinstance(error, NonFiniteError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
