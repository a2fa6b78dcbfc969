"""eval-export: what it writes compiles, its commands say what they must, and the adapter does its part."""

import importlib
import json
import os
import sys
import tomllib
from types import SimpleNamespace

import pytest

from lit_g2rpo.cli.verbs.eval_export import main
from lit_g2rpo.cli.verbs.suite_adapter import answer_alone, with_instruction
from lit_g2rpo.errors import UserError
from lit_g2rpo.rewards.answers.parse import envelope


@pytest.fixture
def folder(tmp_path):
    main(["/models/run 1", "--output", str(tmp_path / "out"), "--thinking_tag", "think", "--judge", "gpt-4o-mini"])
    return tmp_path / "out"


def test_files_are_whole(folder, commands):
    for path in folder.rglob("*.py"):
        compile(path.read_text(), str(path), "exec")
    for path in folder.glob("*.sh"):
        assert commands.run("sh", "-n", path).returncode == 0
    project = tomllib.loads((folder / "pyproject.toml").read_text())
    entry = project["project"]["entry-points"]["lmms_eval.models"]["g2rpo"]
    module, name = entry.split(":")
    assert f"\n{name} = " in (folder / f"{module.replace('.', '/')}.py").read_text()
    settings = json.loads((folder / "g2rpo_suites" / "settings.json").read_text())
    assert "<think>" in settings["instruction"]
    assert "<thinking>" not in settings["instruction"]


def test_commands_name_what_they_evaluate(folder):
    lmms = (folder / "lmms_eval.sh").read_text()
    assert "'model=/models/run 1,tensor_parallel_size=1,gpu_memory_utilization=0.85,max_new_tokens=8192'" in lmms
    assert "--model g2rpo_vllm" in lmms
    assert '--reasoning_tags \'[["<think>", "</think>"]]\'' in lmms
    assert "--log_samples --output_path" in lmms
    assert "refspatial_location_json" in lmms
    assert "_reasoning" not in lmms.replace("--reasoning_tags", "")
    kit = (folder / "vlmevalkit.sh").read_text()
    assert "run_vlmevalkit.py" in kit
    assert "--judge gpt-4o-mini" in kit


def test_without_a_judge_what_needs_one_is_left_out(tmp_path, capsys):
    main(["/models/a", "--output", str(tmp_path / "out")])
    data = json.loads((tmp_path / "out" / "vlmevalkit.json").read_text())["data"]
    assert "MMBench_DEV_EN" in data
    assert not {"MathVista_MINI", "MathVerse_MINI", "MathVision", "CharXiv_reasoning_val"} & data.keys()
    assert "need a judge: MathVista_MINI, MathVerse_MINI, MathVision, CharXiv_reasoning_val" in capsys.readouterr().out


def test_the_configuration_of_vlmevalkit(folder):
    config = json.loads((folder / "vlmevalkit.json").read_text())
    model = config["model"]["g2rpo"]
    assert model["class"] in (folder / "run_vlmevalkit.py").read_text()
    assert (model["model_path"], model["use_vllm"], model["use_custom_prompt"]) == ("/models/run 1", True, False)
    assert "<think>" in model["system_prompt"]
    assert all(data["dataset"] == name for name, data in config["data"].items())
    assert {"ChartQA_TEST", "OCRBench", "MMStar", "RefCOCO", "MathVista_MINI"} <= config["data"].keys()


def test_a_folder_in_use_is_refused(folder):
    with pytest.raises(UserError, match="not empty"):
        main(["m", "--output", str(folder)])
    with pytest.raises(UserError, match="required: --output"):
        main(["m"])


def test_the_instruction_ends_the_last_user_turn():
    request = "What? Answer the question using a single word or phrase."
    messages = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": [{"type": "image_url", "image_url": {}}, {"type": "text", "text": request}]},
    ]
    asked = with_instruction(messages, "Use tags.")
    texts = [item["text"] for item in asked[1]["content"] if item["type"] == "text"]
    assert texts == ["What? The answer is a single word or phrase.", "\nUse tags."]
    assert asked[0] == messages[0]
    assert messages[1]["content"][1]["text"] == request
    plain = with_instruction([{"role": "user", "content": "What?"}], "Use tags.")
    assert [item["text"] for item in plain[0]["content"]] == ["What?", "\nUse tags."]
    with pytest.raises(ValueError, match="no user turn"):
        with_instruction([], "Use tags.")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>A or B</think><answer> B </answer>", "B"),
        ("<think><answer>A</answer></think><answer>B</answer>", "B"),
        ("<think>so A", ""),
        ("B", "B"),
        ("<think>so A</think> Option B", "Option B"),
    ],
)
def test_the_answer_alone_is_handed_on(text, answer):
    assert answer_alone(text, envelope, "think", "answer") == answer


def test_the_copied_reader_needs_nothing_else(folder, commands):
    code = "from g2rpo_suites.envelope import envelope as e; import sys; print(e('<answer>7</answer>').answer)"
    code += "; assert not any(name.startswith('lit_g2rpo') for name in sys.modules)"
    result = commands.run(sys.executable, "-c", code, cwd=folder, env={**os.environ, "PYTHONPATH": str(folder)})
    assert (result.stdout, result.stderr) == ("7\n", "")


def test_the_plugin_fits_lmms_eval(folder, monkeypatch):
    pytest.importorskip("lmms_eval.models.registry_v2")
    monkeypatch.syspath_prepend(str(folder))
    plugin = importlib.import_module("g2rpo_suites.lmms_plugin")
    base = plugin.VLLM
    result = importlib.import_module("lmms_eval.api.instance").GenerationResult("<think>a</think><answer>B</answer>")
    user = [{"role": "user", "content": [{"type": "text", "text": "?"}]}]
    monkeypatch.setattr(base, "make_one_request", lambda self, request: (user, {"top_p": 1}))
    monkeypatch.setattr(base, "generate_until", lambda self, requests: [result])
    model = plugin.G2RPOVLLM.__new__(plugin.G2RPOVLLM)
    messages, parameters = model.make_one_request(SimpleNamespace())
    assert "<think>" in messages[0]["content"][-1]["text"]
    assert parameters == {"top_p": 1}
    assert [out.text for out in model.generate_until([])] == ["B"]
    registry = importlib.import_module("lmms_eval.models.registry_v2").ModelRegistryV2()
    registry.register_manifest(plugin.MANIFEST)
    assert registry.get_model_class("g2rpo_vllm") is plugin.G2RPOVLLM
