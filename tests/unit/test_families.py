"""Model families: one file names a model's parts, and one of one's own is found by its path."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.imports import FILES, ROOT
from helpers.prompts import make_prompt
from torch import Tensor

from lit_g2rpo.errors import UserError
from lit_g2rpo.policy.config import PolicyConfig
from lit_g2rpo.policy.families.qwen3_vl import Qwen3VL
from lit_g2rpo.policy.loading import load_policy
from lit_g2rpo.rollout.engine import Sampling
from lit_g2rpo.rollout.native.engine import NativeEngine

PARTS = re.compile(r"\blm_head\b|\blanguage_model\b|\.visual\b|deepstack|\b(text|vision)_config\b")
NAMING = {
    "lit_g2rpo/mini/policy.py": "chooses the sizes of a Qwen3-VL of its own",
    "lit_g2rpo/planning/sizes.py": "holds the published sizes of Qwen3-VL",
}


def test_only_a_family_names_the_parts_of_its_models() -> None:
    named = {str(path.relative_to(ROOT)) for path in FILES if PARTS.search(path.read_text())}
    assert {name for name in named if not name.startswith("lit_g2rpo/policy/families/")} == NAMING.keys()


class Noted(Qwen3VL):
    """A family from outside the package, whose text model the native engine may not run."""

    native_decoder = False
    tokens = 0

    def hidden_states(self, *arguments: Any) -> Tensor:
        self.tokens += len(arguments[1])
        return super().hidden_states(*arguments)


NotAFamily = dict


def test_a_family_is_given_by_its_path(random_folder: str) -> None:
    policy = load_policy(PolicyConfig(path=random_folder, family=f"{__file__}:Noted"))
    known = load_policy(PolicyConfig(path=random_folder, family="qwen3_vl"))
    prompt, tokens, family = make_prompt("one", 1), torch.arange(20, 25), policy.backbone.family
    stats = policy.token_stats([prompt], [tokens])
    assert vars(family) == {"tokens": len(policy.encode(prompt).input_ids) + len(tokens) - 1}
    assert torch.equal(stats[0], known.token_stats([make_prompt("one", 1)], [tokens])[0])
    engine = NativeEngine()
    engine.attach(policy)
    with pytest.raises(UserError, match="'native' knows no qwen3_vl with default rope; use 'huggingface'"):
        engine.generate([prompt], 1, Sampling(2))


@pytest.mark.parametrize(
    ("family", "message"),
    [
        ("qwen3", "model.policy.family is 'qwen3'; did you mean qwen3_vl? Known: qwen3_vl; or give package.module"),
        (f"{__file__}:NotAFamily", "NotAFamily', which is no subclass of lit_g2rpo.policy.families.family.Family"),
    ],
)
def test_what_is_no_family_is_one_line(random_folder: str, family: str, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)) as error:
        load_policy(PolicyConfig(path=random_folder, family=family))
    assert "\n" not in str(error.value)


def test_a_model_of_no_known_family_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    message = (
        f"model.policy.path '{tmp_path}' holds a model of type 'bert', which no family here loads; give a checkpoint"
    )
    with pytest.raises(UserError, match=re.escape(message)):
        load_policy(PolicyConfig(path=str(tmp_path)))
