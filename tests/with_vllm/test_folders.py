"""vLLM loads the embedded policy's folder and what ``export`` writes as they are, with its own processor."""

from pathlib import Path

import helpers.build as build
import pytest
from helpers.paths import CONFIGS, WEIGHTS
from helpers.prompts import make_prompt
from transformers import AutoProcessor, Qwen3VLProcessor

from lit_g2rpo.__main__ import main
from lit_g2rpo.policy.config import PolicyConfig
from lit_g2rpo.policy.loading import load_policy
from lit_g2rpo.rollout.engine import Sampling
from lit_g2rpo.rollout.native.engine import NativeEngine
from lit_g2rpo.rollout.vllm.environment import prepare
from lit_g2rpo.rollout.vllm.isolation import isolated


@pytest.fixture(params=["embedded", "exported"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param == "embedded":
        return WEIGHTS
    trainer = build.trainer(tmp_path, steps=1)
    trainer.fit(build.module(str(WEIGHTS)), build.data())
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    words = ["--config", str(CONFIGS / "g2rpo.yaml"), "--ckpt_path", str(tmp_path / "one.ckpt")]
    assert main(["export", *words, "--output", str(tmp_path / "out"), "--dtype", "float32"]) == 0
    return tmp_path / "out"


def test_a_folder_of_ours_is_served_as_it_is(folder: Path) -> None:
    assert type(AutoProcessor.from_pretrained(folder)) is Qwen3VLProcessor
    policy = load_policy(PolicyConfig(path=str(folder)))
    engine = NativeEngine()
    engine.attach(policy)
    # an image that no processor resizes
    prompt = make_prompt("a", 1)
    expected = engine.generate([prompt], 1, Sampling(16, temperature=0))[0]
    prepare()
    with isolated(policy.device):
        from vllm import LLM, SamplingParams

        options = {"kv_cache_memory_bytes": 2**24, "max_model_len": 256, "max_num_seqs": 2, "enforce_eager": True}
        llm = LLM(str(folder), dtype="float32", **options)
        text = policy.processor.apply_chat_template(prompt.messages, tokenize=False, add_generation_prompt=True)
        inputs = {"prompt": text, "multi_modal_data": {"image": prompt.images[0]}}
        parameters = SamplingParams(temperature=0, max_tokens=16, stop_token_ids=policy.eos_token_ids)
        output = llm.generate([inputs], parameters, use_tqdm=False)[0]
    assert output.prompt_token_ids == policy.encode(prompt).input_ids.tolist()
    assert list(output.outputs[0].token_ids) == expected.token_ids.tolist()
