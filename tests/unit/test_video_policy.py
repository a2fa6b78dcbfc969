"""Videos in the policy against Hugging Face's own path: tokens, pixels, positions, log-probabilities, gradients."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.films import film, grey, light, square
from helpers.forwards import FROZEN, assert_equal, assert_same, batch, learn, load
from helpers.paths import WEIGHTS
from PIL import Image
from torch import Tensor
from transformers import AutoProcessor, Qwen3VLForConditionalGeneration, Qwen3VLProcessor
from transformers.video_utils import VideoMetadata, read_video_pyav

from lit_g2rpo.data.media.videos import Clip
from lit_g2rpo.errors import UserError
from lit_g2rpo.experience import Prompt, VideoHeader, VideoLimits
from lit_g2rpo.policy.config import LoraConfig
from lit_g2rpo.policy.policy import Policy
from lit_g2rpo.policy.processor import ImageOnlyQwen3VLProcessor
from lit_g2rpo.policy.video_processor import VideoProcessor
from lit_g2rpo.rollout.engine import Sampling
from lit_g2rpo.rollout.huggingface import HuggingFaceEngine
from lit_g2rpo.rollout.native.engine import NativeEngine

pytest.importorskip("av")
pytestmark = pytest.mark.usefixtures("exact_norms")

LENGTHS = {"text": [4, 1], "image": [2], "video": [5, 3, 1], "both": [6, 2], "twice": [3, 4]}


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    (folder / "grey.mp4").write_bytes(film(3, (64, 32), grey))
    # neither an even number of frames nor sides that patches divide
    (folder / "square.mp4").write_bytes(film(2.7, (70, 52), square))
    return folder


def prompt(name: str, films: Path, *kinds: str) -> Prompt:
    """A prompt with images and films, in the order of their names."""
    content = [{"type": "image" if kind == "image" else "video"} for kind in kinds]
    return Prompt(
        name,
        "ocr",
        "OCR",
        [{"role": "user", "content": [*content, {"type": "text", "text": "When is it light? " * len(name)}]}],
        [Image.new("RGB", (64, 48), (30 * n, 90, 200)) for n, kind in enumerate(kinds) if kind == "image"],
        {},
        videos=[Clip(films / f"{kind}.mp4") for kind in kinds if kind != "image"],
    )


@pytest.fixture
def prompts(films: Path) -> list[Prompt]:
    return [
        prompt("text", films),
        prompt("image", films, "image"),
        prompt("video", films, "grey"),
        prompt("both", films, "image", "square", "image", "grey", "image"),
        prompt("twice", films, "square", "grey"),
    ]


def stock_inputs(processor: Any, prompt: Prompt) -> Any:
    """Hugging Face's own path: every frame is decoded as transformers does, then chosen, resized and cut by it."""
    sampled = []
    for clip in prompt.videos:
        video = processor.video_processor

        def choose(metadata: VideoMetadata, video: Any = video) -> Any:
            return video.sample_frames(metadata, fps=video.fps)

        sampled.append(read_video_pyav(str(clip.source), choose))
    videos: dict[str, Any] = {}
    if sampled:
        videos["videos"] = [frames for frames, _ in sampled]
        videos["videos_kwargs"] = {"video_metadata": [found for _, found in sampled], "do_sample_frames": False}
    text = processor.apply_chat_template(prompt.messages, tokenize=False, add_generation_prompt=True)
    return processor(text=[text], images=prompt.images or None, return_tensors="pt", **videos)


def torchvision_processor(folder: str | Path) -> Any:
    try:
        import torchvision  # noqa: F401
    # beside a torch of another build it cannot be imported
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"torchvision: {error}")
    processor = AutoProcessor.from_pretrained(folder)
    assert type(processor) is Qwen3VLProcessor
    return processor


@pytest.mark.parametrize("reference", [ImageOnlyQwen3VLProcessor.from_pretrained, torchvision_processor])
def test_tokens_grids_and_pixels_equal_those_of_the_stock_processor(
    random_folder: str, prompts: list[Prompt], reference: Callable[[str], Any]
) -> None:
    stock, policy = reference(random_folder), load(random_folder, True)
    for one in prompts:
        expected, ours = stock_inputs(stock, one), policy.encode(one)
        assert torch.equal(ours.input_ids, expected["input_ids"][0])
        assert ours.token_types.tolist() == expected["mm_token_type_ids"][0].tolist()
        media = ours.media()
        for name in ("image_grid_thw", "video_grid_thw", "pixel_values_videos"):
            assert (name in media) == (name in expected), name
            assert name not in media or torch.equal(media[name], expected[name]), name
        positions, delta = policy.base.model.get_rope_index(
            expected["input_ids"], torch.as_tensor(expected["mm_token_type_ids"]),
            expected.get("image_grid_thw"), expected.get("video_grid_thw"),
        )  # fmt: skip
        assert torch.equal(ours.positions, positions[:, 0])
        assert ours.next_position == len(ours.input_ids) + int(delta)


def test_pixels_equal_those_of_pillow() -> None:
    """Independent of torch's resizing: within two of 255 steps, since Pillow rounds between its two passes."""
    processor = ImageOnlyQwen3VLProcessor.from_pretrained(WEIGHTS)
    clip = Clip(film(2, (90, 70), square))
    whole = clip.read(processor.video_processor.plan(clip.header(), VideoLimits()).numbers, lambda frame: frame)
    frames, _ = processor.frames(clip)
    height, width = frames.shape[-2:]
    assert (height, width) == (64, 96)
    for full, small in zip(whole, frames, strict=True):
        image = Image.fromarray(full.permute(1, 2, 0).numpy()).resize((width, height), Image.Resampling.BICUBIC)
        difference = np.abs(np.asarray(image).astype(int) - small.permute(1, 2, 0).numpy())
        assert difference.max() <= 2


def test_patches_hold_two_frames_each() -> None:
    processor = ImageOnlyQwen3VLProcessor.from_pretrained(WEIGHTS)
    frames, metadata = processor.frames(Clip(film(2, (32, 32), grey)))
    assert (frames.shape, metadata.frames_indices) == ((4, 3, 32, 32), [0, 6, 13, 19])
    text = "<|vision_start|><|video_pad|><|vision_end|>"
    options = {"video_metadata": [metadata], "do_sample_frames": False, "do_resize": False}
    inputs = processor(text=[text], videos=[frames], videos_kwargs=options, return_tensors="pt")
    assert inputs["video_grid_thw"].tolist() == [[2, 4, 4]]
    # pairs of frames, patches, channels, frames of a pair, rows and columns; back from -1 to 1 to grey of 8 a frame
    patches = (inputs["pixel_values_videos"].unflatten(0, (2, 16)).unflatten(2, (3, 2, 8, 8)) + 1) * 127.5
    assert patches.mean((1, 2, 4, 5)).flatten().tolist() == pytest.approx([0, 48, 104, 152], abs=4)
    assert processor.times(metadata) == pytest.approx([0.3, 1.6])


def test_the_times_in_the_prompt_are_those_of_answers(films: Path) -> None:
    """A film that is light from second 1 to 3: so are the frames whose times the policy reads as between 1 and 3."""
    (films / "light.mp4").write_bytes(film(6, (64, 32), light))
    for start, end in ((0.0, None), (0.5, 4.0)):
        processor = ImageOnlyQwen3VLProcessor.from_pretrained(WEIGHTS)
        clip = Clip(films / "light.mp4", start, end, VideoLimits(fps=5, max_frames=40))
        frames, metadata = processor.frames(clip)
        text = processor.video_text(clip)
        times = [float(part.split(" seconds>")[0]) for part in text.split("<") if " seconds>" in part]
        assert times == pytest.approx(processor.times(metadata), abs=0.051)
        pairs = frames[: len(frames) // 2 * 2].float().mean((1, 2, 3)).view(-1, 2)
        inside = [1.1 < time < 2.9 for time in times[: len(pairs)]]
        assert sum(inside) >= 3
        for is_inside, time, pair in zip(inside, times, pairs, strict=False):
            assert is_inside <= bool((pair > 250).all()), time
            assert (time < 0.9 or time > 3.1) <= bool((pair < 5).all()), time


@pytest.mark.parametrize("packing", [True, False], ids=["packed", "padded"])
@pytest.mark.parametrize("freeze", [[], FROZEN], ids=["trained", "frozen"])
def test_log_probabilities_and_gradients_equal_plain_hugging_face(
    random_folder: str, prompts: list[Prompt], packing: bool, freeze: list[Any]
) -> None:
    policy = load(random_folder, packing, torch.float64, freeze=freeze)
    stock = ImageOnlyQwen3VLProcessor.from_pretrained(random_folder)
    plain = Qwen3VLForConditionalGeneration.from_pretrained(random_folder, attn_implementation="sdpa").double()
    generator = torch.Generator().manual_seed(1)
    completions = [torch.randint(20, 200, (n,), generator=generator) for n in (5, 1, 4, 7, 3)]
    expected = [plain_logprobs(plain, stock_inputs(stock, p), c) for p, c in zip(prompts, completions, strict=True)]
    torch.cat(expected).sum().backward()
    hidden, targets = policy.hidden_states(prompts, completions)
    logprobs = (hidden @ policy.backbone.head.T).log_softmax(-1).gather(1, targets[:, None])[:, 0]
    logprobs.sum().backward()
    torch.testing.assert_close(logprobs, torch.cat(expected), atol=1e-9, rtol=0)
    gradients = dict(plain.named_parameters())
    for name, parameter in policy.named_parameters():
        theirs = gradients[name.removeprefix("model.") if name not in gradients else name].grad
        if parameter.requires_grad:
            assert (parameter.grad - theirs).norm() / theirs.norm() < 1e-9, name


def plain_logprobs(model: Any, inputs: Any, completion: Tensor) -> Tensor:
    length = len(completion)
    types = torch.as_tensor(inputs["mm_token_type_ids"])
    inputs["input_ids"] = torch.cat([inputs["input_ids"], completion[None]], 1)
    inputs["mm_token_type_ids"] = torch.cat([types, torch.zeros(1, length, dtype=types.dtype)], 1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    logits = model(**inputs).logits[0, -length - 1 : -1]
    return logits.log_softmax(-1).gather(1, completion[:, None])[:, 0]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"freeze": FROZEN},
        {"packed_attention": "two_part"},
        {"lora": LoraConfig(rank=2, alpha=4), "freeze": FROZEN},
        {"activation_checkpointing": "full"},
        {"shapes": "static"},
        {"shapes": "static", "freeze": FROZEN},
    ],
    ids=["trained", "frozen", "two_part", "lora", "checkpointing", "static", "static_frozen"],
)
def test_the_loss_and_every_gradient_equal_the_padded_forward(
    random_folder: str, prompts: list[Prompt], options: dict[str, Any]
) -> None:
    microbatch = batch(prompts, torch.float64, LENGTHS)
    same = {name: value for name, value in options.items() if name in ("freeze", "lora")}
    expected = learn(load(random_folder, False, torch.float64, **same), microbatch)
    assert_equal(learn(load(random_folder, True, torch.float64, **options), microbatch), expected, torch.float64)


@pytest.mark.parametrize("shapes", ["exact", "static"])
@pytest.mark.parametrize("freeze", [[], FROZEN], ids=["trained", "frozen"])
def test_both_engines_sample_the_same_completions(
    random_folder: str, prompts: list[Prompt], freeze: list[Any], shapes: Any
) -> None:
    sampling = Sampling(10, seed=3)
    found = []
    for engine, options in ((NativeEngine(), {"shapes": shapes}), (HuggingFaceEngine(), {})):
        policy = load(random_folder, True, freeze=freeze, **options)
        engine.attach(policy)
        fresh = [replace(one, encoded=None) for one in prompts]
        found.append(engine.generate(fresh, 3, sampling))
        logprobs, _ = policy.token_stats([one for one in fresh for _ in range(3)], [c.token_ids for c in found[-1]])
        torch.testing.assert_close(torch.cat([c.logprobs for c in found[-1]]), logprobs, atol=1e-5, rtol=0)
    assert_same(*found)


@pytest.mark.parametrize("shapes", ["exact", "static"])
def test_a_frozen_tower_sees_a_video_once(random_folder: str, prompts: list[Prompt], shapes: Any) -> None:
    policy = load(random_folder, True, freeze=FROZEN, shapes=shapes)
    policy.prepare_features(prompts)
    policy.prepare_features(prompts)
    engine = NativeEngine()
    engine.attach(policy)
    engine.generate(prompts, 2, Sampling(4))
    learn(policy, batch(prompts, torch.float32, LENGTHS))
    counters = policy.backbone.counters
    count = sum(len(one.images) + len(one.videos) for one in prompts)
    assert counters.images_preprocessed == counters.images_encoded == count


def test_the_checkpoints_settings_choose_frames_and_sizes(tmp_path: Path) -> None:
    ImageOnlyQwen3VLProcessor.from_pretrained(WEIGHTS).save_pretrained(tmp_path)
    file = tmp_path / "video_preprocessor_config.json"
    settings = json.loads(file.read_text())

    def planned(limits: VideoLimits = VideoLimits(), **changes: Any) -> tuple[int, int, int]:  # noqa: B008
        file.write_text(json.dumps(settings | changes))
        processor = ImageOnlyQwen3VLProcessor.from_pretrained(tmp_path)
        # a minute of film at 24 frames a second
        plan = processor.video_processor.plan(VideoHeader(0, 1440, 24.0, 1280, 720), limits)
        assert plan.numbers[0] == 0
        assert plan.numbers[-1] == 1439
        return len(plan.numbers), plan.height, plan.width

    size = {"shortest_edge": 1024, "longest_edge": 48 * 1280 * 720}
    assert planned() == (16, 48, 80)
    assert planned(fps=0.1) == (6, 64, 128)
    assert planned(fps=0.1, min_frames=8) == (8, 64, 112)
    assert planned(max_frames=48, size=size) == (48, 720, 1280)
    assert planned(max_frames=100, size=size) == (100, 496, 880)
    assert planned(max_frames=48, size=size, cap_pixels_per_frame=True) == (48, 320, 576)
    assert planned(VideoLimits(max_frames=10), max_frames=48, size=size)[0] == 10
    assert planned(VideoLimits(fps=0.5), max_frames=48, size=size)[0] == 30
    assert planned(VideoLimits(min_frames=60), max_frames=48, size=size)[0] == 60
    assert planned(VideoLimits(max_frames=2), max_frames=48, size=size)[0] == 2
    assert planned(VideoLimits(max_pixels=64 * 64), max_frames=48, size=size) == (48, 48, 80)
    assert planned(VideoLimits(total_pixels=48 * 64 * 64), max_frames=48, size=size) == (48, 48, 80)


def test_a_way_of_resizing_that_torch_has_not_is_named() -> None:
    with pytest.raises(ValueError, match=r"resized with resample 1; it must be 3 \(bicubic\) or 2 \(bilinear\)"):
        VideoProcessor(resample=1)


def test_places_without_a_video_are_named(random_folder: str, films: Path) -> None:
    policy: Policy = load(random_folder, True)
    one = prompt("video", films, "grey")
    one.videos = []
    with pytest.raises(UserError, match="row video: 1 video places in the prompt but 0 videos"):
        policy.encode(one)
