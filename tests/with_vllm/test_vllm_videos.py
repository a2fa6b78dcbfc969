"""vLLM sees videos as the native engine does."""

from pathlib import Path

from helpers.films import film, square
from helpers.forwards import assert_same
from PIL import Image

from lit_g2rpo.data.media.videos import Clip
from lit_g2rpo.experience import Completion, Prompt
from lit_g2rpo.policy.policy import Policy
from lit_g2rpo.rollout.engine import RolloutEngine, Sampling
from lit_g2rpo.rollout.native.engine import NativeEngine
from lit_g2rpo.rollout.vllm.engine import VllmEngine


def prompt(name: str, path: Path, *kinds: str) -> Prompt:
    content = [*({"type": kind} for kind in kinds), {"type": "text", "text": "When is it light?"}]
    images = [Image.effect_noise((64, 48), 60).convert("RGB") for kind in kinds if kind == "image"]
    videos = [Clip(path) for kind in kinds if kind == "video"]
    return Prompt(name, "ocr", "OCR", [{"role": "user", "content": content}], images, {}, videos=videos)


def sample(engine: RolloutEngine, policy: Policy, prompts: list[Prompt]) -> list[Completion]:
    engine.attach(policy)
    engine.push()
    return engine.generate(prompts, 4, Sampling(16, seed=2))


def test_completions_of_videos_are_those_of_the_native_engine(policy: Policy, tmp_path: Path) -> None:
    path = tmp_path / "square.mp4"
    path.write_bytes(film(2.7, (70, 52), square))
    kinds = {"one": ["video"], "both": ["image", "video"], "twice": ["video", "video"], "none": []}
    prompts = [prompt(name, path, *own) for name, own in kinds.items()]
    ours, theirs = (sample(engine, policy, prompts) for engine in (VllmEngine(16, kv_gib=0.1), NativeEngine()))
    assert_same(ours, theirs, atol=5e-5)
    assert any(int(row[0]) > 1 for row in policy.encode(prompts[0]).image_grid), "it has one pair of frames"
