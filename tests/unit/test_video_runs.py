"""Two rollouts on each problem type that asks about a video, on films made here."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.build import module, trainer
from helpers.films import film, light, square

from lit_g2rpo.data.json_datamodule import JsonPrompts
from lit_g2rpo.experience import VideoLimits
from lit_g2rpo.policy.config import PolicyConfig
from lit_g2rpo.policy.encoding import EncodedPrompt
from lit_g2rpo.policy.loading import load_policy
from lit_g2rpo.rewards import score
from lit_g2rpo.rewards.config import DEFAULT

pytest.importorskip("av")

ANSWERS = {
    "temporal grounding": {"time": [1.0, 3.0]},
    "tracking": {"boxes": {"1": [300, 125, 480, 300], "2": [620, 125, 800, 300]}},
    "spatial-temporal grounding": {"time": [1.0, 2.0], "boxes": {"1": [300, 125, 480, 300], "2": [620, 125, 800, 300]}},
}


@pytest.mark.parametrize("kind", ANSWERS)
@pytest.mark.usefixtures("varied_rewards")
def test_two_rollouts_train_on_videos(random_folder: str, tmp_path: Path, kind: str) -> None:
    (tmp_path / "light.mp4").write_bytes(film(4, paint=light))
    (tmp_path / "square.mp4").write_bytes(film(4, (64, 64), square))
    name = "light.mp4" if kind == "temporal grounding" else "square.mp4"
    videos: list[Any] = [name, {"video": name, "video_start": 0.5, "video_end": 2.5}]
    answer = json.dumps(ANSWERS[kind])
    rows = [
        {
            "problem": f"<video> Row {n}: where and when?",
            "problem_type": kind,
            "task_type": "video",
            "answer": f"<answer>{answer}</answer>",
            "videos": [videos[n % 2]],
        }
        for n in range(8)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = JsonPrompts(
        train=tmp_path / "rows.jsonl",
        image_root=tmp_path,
        tasks={"video": {}},
        video=VideoLimits(max_frames=8),
        max_completion_tokens=8,
    )
    trained = module(random_folder, rollout={"prompts": 4}, update={"microbatches": 2})
    seen: dict[str, EncodedPrompt] = {}
    prepare = trained.prepare_prompt

    def watch(prompt: Any) -> None:
        prepare(prompt)
        seen[prompt.id] = prompt.encoded

    trained.prepare_prompt = watch  # type: ignore[method-assign]
    runner = trainer(tmp_path, steps=4, accumulate_grad_batches=1)
    runner.fit(trained, data)
    assert runner.global_step == 4
    assert len(seen) == 8
    whole, clip = (seen[id].video_times[0] for id in sorted(seen)[:2])
    assert (len(whole), len(clip)) == (4, 2)
    assert clip[0] >= 0.5
    assert clip[-1] <= 2.5
    before = dict(load_policy(PolicyConfig(path=random_folder)).named_parameters())
    changed = [name for name, weight in trained.policy.named_parameters() if not torch.equal(weight, before[name])]
    assert any(".visual." in name for name in changed)
    assert any("language_model" in name for name in changed)
    sample = data.train_dataset()[0].sample
    assert score(f"<thinking>It moves.</thinking><answer>{answer}</answer>", sample, DEFAULT).accuracy == 1
