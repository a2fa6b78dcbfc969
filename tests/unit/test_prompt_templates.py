"""The wording of prompts: by default, by the data, by a task, and by the policy's folder."""

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.composed import compose
from helpers.paths import ROOT

from lit_g2rpo.cli.verbs.export import save
from lit_g2rpo.data import JsonPrompts
from lit_g2rpo.data.messages import build_messages, check_template
from lit_g2rpo.errors import UserError
from lit_g2rpo.mini import MiniPrompts
from lit_g2rpo.mini.tasks import TASKS, TEMPLATE, make_sample, to_prompt
from lit_g2rpo.policy.config import PolicyConfig
from lit_g2rpo.policy.loading import load_policy, resolve_path
from lit_g2rpo.policy.wording import PROMPT_TEMPLATE, prompt_template_of
from lit_g2rpo.rewards.config import RewardConfig

MINI = "package:lit_g2rpo.mini/weights"
DEFAULT = """Which?
Reason about the question first and write your reasoning between <think> and </think>. Then write the answer alone \
between <answer> and </answer>. Where a box is asked for, give it as JSON with the key "boxes".
Options:
A. {{ cat }}
B. dog
Keep to this form: <think>your reasoning</think><answer>your answer</answer>.
"""


def mini_rows(folder: Path, tasks: tuple[str, ...] = TASKS) -> Path:
    """A file of the embedded tasks' training rows, as someone else would write them."""
    lines = []
    for task in tasks:
        sample = make_sample(task, 3, "train", 0)
        sample.image.save(folder / f"{task}.png")
        row = {"problem": f"<image>{sample.question}", "problem_type": sample.problem_type, "task_type": task}
        row |= {"answer": sample.answer, "images": [f"{task}.png"], "options": list(sample.options)}
        lines.append(json.dumps(row))
    (folder / "rows.jsonl").write_text("\n".join(lines))
    return folder / "rows.jsonl"


def prompts(folder: Path, policy: str | None = None, **options: Any) -> list[Any]:
    data = JsonPrompts(train=str(mini_rows(folder)), image_root=str(folder), **options)
    if policy is not None:
        data.module = SimpleNamespace(reward=RewardConfig(), prompt_template=prompt_template_of(policy))  # type: ignore[assignment]
    data.setup("fit")
    rows = data.train_dataset()
    return [rows[index] for index in range(len(rows))]


def test_a_question_is_worded_with_its_form_and_options() -> None:
    [turn] = build_messages("Which?", ["A. {{ cat }}", "B. dog"], "multiple choice", 0, thinking_tag="think")
    text = turn["content"][0]["text"]
    assert text.startswith(DEFAULT)
    assert text.removeprefix(DEFAULT).count("<answer>") == 1


def test_rows_of_the_embedded_tasks_read_as_the_embedded_policy_learned_them(tmp_path: Path) -> None:
    own = [to_prompt(make_sample(task, 3, "train", 0)).messages for task in TASKS]
    assert [prompt.messages for prompt in prompts(tmp_path, MINI)] == own
    assert [prompt.messages for prompt in prompts(tmp_path)] != own


def test_the_embedded_policy_names_the_wording_it_was_trained_with() -> None:
    assert prompt_template_of(MINI) == TEMPLATE


def test_a_folder_without_a_wording_names_none(random_folder: str) -> None:
    assert prompt_template_of(random_folder) is None


def test_a_policy_that_is_not_there_is_left_to_its_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: Any, **__: Any) -> None:
        raise OSError("no/such is not a valid model identifier")

    monkeypatch.setattr("lit_g2rpo.policy.wording.cached_file", absent)
    assert prompt_template_of("no/such") is None


def test_an_export_keeps_the_wording(tmp_path: Path) -> None:
    policy = load_policy(PolicyConfig(MINI))
    save(policy.model, policy, MINI, tmp_path)
    assert (tmp_path / PROMPT_TEMPLATE).read_text() == TEMPLATE


def test_the_data_override_the_policy_and_a_task_the_data(tmp_path: Path) -> None:
    tasks = {"ocr": {"prompt_template": "{{ task }}, {{ problem_type }}: {{ question }}"}}
    found = prompts(tmp_path, MINI, prompt_template="Now: {{ question }} {{ answer_form }}", tasks=tasks)
    texts = {prompt.task: prompt.text for prompt in found}
    assert texts["ocr"] == "ocr, OCR: Read the digits."
    assert all(text.startswith("Now: ") for task, text in texts.items() if task != "ocr")
    assert "<answer>" in texts["math_reasoning"]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ qestion }}", "data.prompt_template uses 'qestion', which no prompt has; did you mean question?"),
        ("{{ question }} {{ zebra }}", "uses 'zebra', which no prompt has; a template may use question, options, "),
        ("Read it.", "data.prompt_template has no {{ question }}"),
        ("{{ question }\nOptions", "data.prompt_template is no Jinja template, line 1: unexpected '}'"),
        ("{{ question | shuot }}", "data.prompt_template is no Jinja template, line 1: No filter named 'shuot'."),
        ("{{ question }}{{ options[0] }}", "data.prompt_template is no Jinja template: "),
        ("<image>{{ question }}", "data.prompt_template has <image>; leave it out"),
        (3, "data.prompt_template is 3; give the wording as text"),
        ("", "data.prompt_template has no {{ question }}"),
    ],
)
def test_a_template_that_cannot_word_a_question_is_refused(template: Any, message: str) -> None:
    with pytest.raises(UserError) as error:
        JsonPrompts(train="rows.jsonl", prompt_template=template)
    assert str(error.value).startswith("data.prompt_template")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_the_template_of_a_task_is_checked_under_its_own_name() -> None:
    with pytest.raises(UserError, match=r"data\.tasks\.ocr\.prompt_template uses 'x'"):
        JsonPrompts(tasks={"ocr": {"prompt_template": "{{ question }}{{ x }}"}})
    with pytest.raises(UserError, match=r"data\.tasks\.ocr\.prompt_template is \['a'\]; give Jinja text"):
        JsonPrompts(tasks={"ocr": {"prompt_template": ["a"]}})
    with pytest.raises(UserError, match=r"data\.tasks\.ocr\.prompt_template: MiniPrompts has prompts of its own"):
        MiniPrompts(tasks={"ocr": {"prompt_template": "{{ question }}"}})


def test_a_broken_template_of_the_policy_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "policy"
    shutil.copytree(resolve_path(MINI), folder)
    (folder / PROMPT_TEMPLATE).write_text("{{ question")
    with pytest.raises(UserError, match=r"prompt_template\.jinja of the policy is no Jinja template"):
        prompts(tmp_path, str(folder))


def test_a_template_cannot_reach_into_python() -> None:
    with pytest.raises(UserError, match="access to attribute '__class__' of 'str' object is unsafe"):
        check_template("{{ question.__class__ }}", "data.prompt_template")


def test_only_tasks_that_have_rows_are_the_runs(tmp_path: Path) -> None:
    train, val = tmp_path / "train", tmp_path / "val"
    train.mkdir(), val.mkdir()
    mini_rows(train, ("ocr", "math_reasoning"))
    shutil.copy(train / "ocr.png", tmp_path)
    shutil.copy(train / "math_reasoning.png", tmp_path)
    mini_rows(tmp_path, ("chart_figure_qa",))
    data = JsonPrompts(str(train / "rows.jsonl"), str(tmp_path / "rows.jsonl"), image_root=str(tmp_path))
    data.setup("fit")
    assert list(data.tasks_of("fit")) == ["math_reasoning", "chart_figure_qa", "ocr"]
    assert data.tasks_of("fit")["ocr"] is data.tasks["ocr"]
    assert list(data.tasks_of("validate")) == ["chart_figure_qa"]


def test_settings_of_a_task_without_rows_are_refused(tmp_path: Path) -> None:
    def data(*tasks: str) -> JsonPrompts:
        made = JsonPrompts(
            str(mini_rows(tmp_path, ("ocr",))), image_root=str(tmp_path), tasks={name: {} for name in tasks}
        )
        made.setup("fit")
        return made

    with pytest.raises(UserError, match=r"data\.tasks\.ocrr: no row has this task; did you mean ocr\?"):
        data("ocrr").tasks_of("fit")
    with pytest.raises(UserError, match=r"data\.tasks\.zebra: no row has this task; the rows have ocr"):
        data("zebra").tasks_of("fit")
    # one of the paper's may be set for data that lack it, as in a fragment for several files
    assert list(data("math_reasoning").tasks_of("fit")) == ["ocr"]
    with pytest.raises(UserError, match=r"data\.tasks\.ocrr: no row has this task; did you mean ocr\?"):
        MiniPrompts(tasks={"ocrr": {"entropy": None}}).tasks_of("fit")


def test_settings_of_a_task_that_only_training_has_are_no_error_elsewhere(tmp_path: Path) -> None:
    data = JsonPrompts(
        val=str(mini_rows(tmp_path, ("ocr",))), image_root=str(tmp_path), tasks={"receipts": {"entropy": None}}
    )
    data.setup("validate")
    with pytest.warns(UserWarning, match=r"data\.tasks\.receipts: no row has this task"):
        assert list(data.tasks_of("validate")) == ["ocr"]


def test_the_page_on_data_and_the_command_line_set_templates(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "data.md").read_text()
    [block] = [block for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL) if "prompt_template" in block]
    (tmp_path / "words.yaml").write_text(block)
    words = ["--config", "@g2rpo.yaml", "--data", "@data/files.yaml", "--config", str(tmp_path / "words.yaml")]
    given = compose(*words, "--data.tasks.ocr.prompt_template", "Read. {{ question }}").data.init_args
    assert check_template(given.prompt_template, "").startswith("{{ question }}\n{% for option in options %}")
    assert {name: keys["prompt_template"] for name, keys in given.tasks.items()} == {
        "receipts": "Read the receipt. {{ question }}",
        "ocr": "Read. {{ question }}",
    }
