"""``eval-export``: write everything needed to evaluate an exported policy with lmms-eval and VLMEvalKit."""

import json
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lit_g2rpo.cli.arguments import VerbParser
from lit_g2rpo.cli.verbs import suite_adapter
from lit_g2rpo.errors import UserError
from lit_g2rpo.rewards.answers import parse

DESCRIPTION = """\
Write the commands that evaluate an exported policy with lmms-eval and VLMEvalKit, and the adapters that request
the tags and pass on only the answer. Neither suite needs to be installed for this."""
LMMS_TASKS = (
    "mmmu_val", "mmstar", "ai2d", "chartqa", "docvqa_val", "infovqa_val", "ocrbench", "embspatial",
    "refspatial_location_json", "refspatial_placement_json", "refspatial_unseen_json", "robo_spatial_all",
)  # fmt: skip
# name: class in VLMEvalKit
VLMEVALKIT_DATA = {
    "MMMU_DEV_VAL": "MMMUDataset", "MMBench_DEV_EN": "ImageMCQDataset", "MMStar": "ImageMCQDataset",
    "MathVista_MINI": "MathVista", "MathVerse_MINI": "MathVerse", "MathVision": "MathVision",
    "AI2D_TEST": "ImageMCQDataset", "ChartQA_TEST": "ImageVQADataset", "CharXiv_reasoning_val": "CharXiv",
    "DocVQA_VAL": "ImageVQADataset", "InfoVQA_VAL": "ImageVQADataset", "OCRBench": "OCRBench",
    "EmbSpatialBench": "EmbSpatialBench", "RefSpatial": "RefSpatialBench", "RoboSpatialHome": "RoboSpatialBench",
    "RefCOCO": "RefCOCODataset",
}  # fmt: skip
# benchmarks that VLMEvalKit cannot grade without a judge
NEEDS_JUDGE = ("MathVista_MINI", "MathVerse_MINI", "MathVision", "CharXiv_reasoning_val")
NO_JUDGE = "exact_matching"
MAX_NEW_TOKENS = 8192

LMMS_PLUGIN = '''\
"""Registers the model g2rpo_vllm with lmms-eval: its vLLM chat model, asked for tags and stripped of them."""

import json
from dataclasses import replace
from pathlib import Path

from lmms_eval.models.chat.vllm import VLLM
from lmms_eval.models.registry_v2 import ModelManifest

from g2rpo_suites.envelope import envelope
from g2rpo_suites.suite_adapter import answer_alone, with_instruction

SETTINGS = json.loads(Path(__file__).with_name("settings.json").read_text())


class G2RPOVLLM(VLLM):
    """The vLLM chat model with the instruction of the training prompts."""

    def make_one_request(self, request):
        messages, parameters = super().make_one_request(request)
        return with_instruction(messages, SETTINGS["instruction"]), parameters

    def generate_until(self, requests):
        tags = SETTINGS["thinking_tag"], SETTINGS["answer_tag"]
        results = super().generate_until(requests)
        return [replace(result, text=answer_alone(result.text, envelope, *tags)) for result in results]


MANIFEST = ModelManifest(model_id="g2rpo_vllm", chat_class_path="g2rpo_suites.lmms_plugin.G2RPOVLLM")
'''
VLMEVALKIT_RUN = '''\
"""Runs VLMEvalKit's run.py, from its checkout, with a model class that passes on only the answer."""

import json
import runpy
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path.cwd())]

import vlmeval.vlm
from g2rpo_suites.envelope import envelope
from g2rpo_suites.suite_adapter import answer_alone
from vlmeval.dataset.utils.spatial_bench.tools.utils import Point2DParser
from vlmeval.vlm import Qwen3VLChat

SETTINGS = json.loads((Path(__file__).parent / "g2rpo_suites" / "settings.json").read_text())


class G2RPOQwen3VLChat(Qwen3VLChat):
    """The Qwen3-VL model whose answers come without reasoning and tags."""

    def generate_inner(self, message, dataset=None):
        text = super().generate_inner(message, dataset=dataset)
        return answer_alone(text, envelope, SETTINGS["thinking_tag"], SETTINGS["answer_tag"])


vlmeval.vlm.G2RPOQwen3VLChat = G2RPOQwen3VLChat
# its hint writes to a logger that no longer exists, and the callers count the error as a wrong answer
Point2DParser.log_hint = staticmethod(lambda *_, **__: None)
runpy.run_path("run.py", run_name="__main__")
'''
PYPROJECT = """\
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "g2rpo-suites"
version = "0"

[project.entry-points."lmms_eval.models"]
g2rpo = "g2rpo_suites.lmms_plugin:MANIFEST"

[tool.setuptools]
packages = ["g2rpo_suites"]
package-data = { g2rpo_suites = ["settings.json"] }
"""


def main(arguments: Sequence[str]) -> None:
    """Write commands and adapters.

    Raises:
        UserError: if the output is not empty.
    """
    parser = VerbParser("python -m lit_g2rpo eval-export", description=DESCRIPTION)
    parser.add_argument("policy", help="folder that export wrote, as the machine of the evaluation sees it")
    parser.add_argument("--output", type=Path, required=True, help="folder to write; must be new or empty")
    parser.add_argument("--thinking_tag", default="thinking", help="name of the tag around the reasoning")
    parser.add_argument("--answer_tag", default="answer", help="name of the tag around the answer")
    parser.add_argument("--judge", default=NO_JUDGE, help="VLMEvalKit's judge, such as gpt-4o-mini")
    parser.add_argument("--max_new_tokens", type=int, default=MAX_NEW_TOKENS, help="longest completion, tokens")
    options = parser.parse_args(arguments)
    folder: Path = options.output
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"--output {folder} exists and is not empty; give a new folder")
    package = folder / "g2rpo_suites"
    package.mkdir(parents=True)
    for module, name in ((parse, "envelope.py"), (suite_adapter, "suite_adapter.py")):
        shutil.copy(str(module.__file__), package / name)
    settings = {
        "instruction": instruction(options.thinking_tag, options.answer_tag),
        "thinking_tag": options.thinking_tag,
        "answer_tag": options.answer_tag,
    }
    texts = {
        package / "__init__.py": "",
        package / "lmms_plugin.py": LMMS_PLUGIN,
        package / "settings.json": json.dumps(settings, indent=2) + "\n",
        folder / "pyproject.toml": PYPROJECT,
        folder / "run_vlmevalkit.py": VLMEVALKIT_RUN,
        folder / "vlmevalkit.json": json.dumps(vlmevalkit_config(options, settings["instruction"]), indent=2) + "\n",
        folder / "lmms_eval.sh": lmms_command(options),
        folder / "vlmevalkit.sh": vlmevalkit_command(options),
    }
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8")
    print(f"{folder}: lmms_eval.sh and vlmevalkit.sh evaluate {options.policy}; each says first what it needs")
    if options.judge == NO_JUDGE:
        print(f"left out, since they need a judge: {', '.join(NEEDS_JUDGE)}; --judge gpt-4o-mini includes them")


def instruction(thinking_tag: str, answer_tag: str) -> str:
    """Return the instruction for the tags, in the wording of the training prompts."""
    from lit_g2rpo.data.messages import TEMPLATE, render

    return render(TEMPLATE, thinking_tag=thinking_tag, answer_tag=answer_tag)


def lmms_command(options: Any) -> str:
    """Return the shell script that runs lmms-eval."""
    # the model also needs a limit, since some tasks only request 16 tokens
    model = f"model={options.policy},tensor_parallel_size=1,gpu_memory_utilization=0.85"
    model += f",max_new_tokens={options.max_new_tokens}"
    tags = json.dumps([[f"<{options.thinking_tag}>", f"</{options.thinking_tag}>"]])
    words = [
        "lmms-eval eval --model g2rpo_vllm",
        f"--model_args {shlex.quote(model)}",
        f"--tasks {','.join(LMMS_TASKS)}",
        f"--batch_size 64 --reasoning_tags {shlex.quote(tags)}",
        "--log_samples --output_path lmms_eval_results",
    ]
    return (
        "#!/bin/sh\n# needs an environment of its own with lmms-eval 0.7.3, vllm, and this folder (pip install .)\n"
        'set -e\ncd "$(dirname "$0")"\n' + " \\\n  ".join(words) + "\n"
    )


def vlmevalkit_command(options: Any) -> str:
    """Return the shell script that runs VLMEvalKit."""
    return (
        "#!/bin/sh\n# needs: a checkout of github.com/open-compass/VLMEvalKit, installed, with vllm; give its folder\n"
        'set -e\nhere="$(cd "$(dirname "$0")" && pwd)"\ncd "${1:?give the folder of VLMEvalKit}"\n'
        'python "$here/run_vlmevalkit.py" --config "$here/vlmevalkit.json" \\\n'
        f'  --judge {shlex.quote(options.judge)} --work-dir "$here/vlmevalkit_results" --reuse\n'
    )


def vlmevalkit_config(options: Any, request: str) -> dict[str, Any]:
    """Return the config of VLMEvalKit, with the instruction as its system prompt."""
    model = {
        "class": "G2RPOQwen3VLChat",
        "model_path": options.policy,
        "use_vllm": True,
        "use_custom_prompt": False,
        "system_prompt": request,
        "max_new_tokens": options.max_new_tokens,
        "temperature": 0.0,
        "do_sample": False,
    }
    return {
        "model": {"g2rpo": model},
        "data": {
            name: {"class": kind, "dataset": name}
            for name, kind in VLMEVALKIT_DATA.items()
            if options.judge != NO_JUDGE or name not in NEEDS_JUDGE
        },
    }
