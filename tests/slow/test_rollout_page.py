"""The page of a run in a real browser, opened from disk."""

import html
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.processes import Commands
from PIL import Image

from lit_g2rpo.callbacks.rollouts.files import RolloutFiles

BROWSER = next((path for name in ("chromium", "google-chrome", "chrome") if (path := shutil.which(name))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium or chrome on the path")
QUIET = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--virtual-time-budget=5000",
    "--dump-dom",
]


def completion(text, reward, advantage, **changed):
    return {
        "text": text,
        "reward": reward,
        "parts": {"accuracy": reward, "format": 1.0, "structure": 0.0, "shaping": -0.05},
        "error": None,
        "advantage": advantage,
        "valid": True,
        "truncated": False,
        "length": 2,
        "entropy": 0.75,
        "logprobs": {"mean": -0.5, "min": -1.0},
        "boxes": [],
        "points": [],
        "tokens": [text, "<|im_end|>"],
        "token_entropy": [0.5, 1.0],
    } | changed


def group(task, name, completions, **changed):
    return {
        "step": 5,
        "task": task,
        "problem_type": "OCR",
        "id": name,
        "prompt": f"[image]\nWhat is {name}?",
        "gold": f"gold of {name}",
        "boxes": [],
        "points": [],
        "completions": completions,
    } | changed


@pytest.fixture
def folder(tmp_path):
    """Two rollouts: four groups of two tasks in the second."""
    path = tmp_path / "rollouts"
    files = RolloutFiles(path, "g2rpo/version_0", None, 512)
    files.open(0)
    image = Image.new("RGB", (64, 64), (200, 0, 0))
    files.write(7, [(group("ocr", "old", [completion("early", 0.25, 0.0)]), [])])
    box = {"boxes": [[100, 200, 300, 400]]}
    files.write(
        10,
        [
            (group("ocr", "o1", [completion("one", 0.25, -0.5), completion("two", 1.0, 0.5)]), [image]),
            (group("math", "m1", [completion("three", 0.0, 0.0, valid=False)]), []),
            (
                group(
                    "ocr",
                    "o2",
                    [
                        completion("four", 0.5, -1.25, truncated=True, error="unparsed"),
                        completion(
                            "five",
                            0.75,
                            1.25,
                            boxes=[[110, 210, 310, 410]],
                            trainer_logprobs={"mean": -0.4, "min": -0.9, "gap": 0.125},
                        ),
                    ],
                    **box,
                ),
                [image],
            ),
        ],
    )
    return path


@pytest.fixture
def dumped(commands: Commands) -> Callable[..., str]:
    """The document after its scripts have run."""

    def dump(page: Path, address: str = "") -> str:
        profile = page.parent.parent / "profile"
        done = commands.run(BROWSER, *QUIET, f"--user-data-dir={profile}", f"{page.as_uri()}{address}")
        assert done.returncode == 0, done.stderr
        return done.stdout

    return dump


def text_of(document: str, pattern: str) -> list[str]:
    return [html.unescape(re.sub("<[^>]*>", "", found)) for found in re.findall(pattern, document, re.DOTALL)]


def cards(document: str) -> list[str]:
    return text_of(document, "<article.*?</article>")


def acting(folder: Path, script: str) -> Path:
    """The page with a reader who does something once it is there."""
    page = folder / "acting.html"
    text = (folder / "index.html").read_text()
    page.write_text(text.replace("</body>", f"<script>addEventListener('load', () => {{{script}}});</script></body>"))
    return page


def test_a_link_leads_to_a_group(folder, dumped):
    document = dumped(folder / "index.html", "#rollout=10&task=ocr&group=2")
    assert "<title>Rollouts of g2rpo/version_0</title>" in document
    assert text_of(document, '<output id="place">.*?</output>') == ["2 of 2"]
    assert text_of(document, '<pre id="prompt">.*?</pre>') == ["[image]\nWhat is o2?"]
    assert "gold of o2" in document
    first, second = cards(document)
    assert first.startswith("00.50A -1.25truncatedunparsed")
    assert "accuracy0.50format1.00shaping-0.05" in first
    # a part that is nothing everywhere is left out
    assert "structure" not in first
    assert "four<|im_end|>" in first
    assert "trainer" not in first
    assert second.startswith("10.75A +1.25")
    assert "trainer's mean -0.40 least -0.90, largest gap 0.125" in second
    rectangles = re.findall(r'<g class="(\w+)".*?<rect x="(\d+)" y="(\d+)" width="(\d+)" height="(\d+)"', document)
    assert rectangles == [("predicted", "110", "210", "200", "200"), ("true", "100", "200", "200", "200")]
    assert len(re.findall('<img src="images/[0-9a-f]{16}.jpg"', document)) == 1
    # half and all of the full colour, which 2 nats have
    assert re.findall(r"--heat-level: ([\d.]+)", document) == ["0.25", "0.5"] * 2
    summary = "2 groups, reward 0.63, accuracy 0.63, length 2.0 tokens, entropy 0.75 nats, truncated 25 %, dropped 0 %"
    assert summary in text_of(document, '<p id="message".*?</p>')[0]


def test_the_newest_rollout_comes_first_and_all_its_groups(folder, dumped):
    document = dumped(folder / "index.html")
    assert text_of(document, '<output id="place">.*?</output>') == ["1 of 3"]
    assert re.findall(r'<button class="dropped".*?>', document)
    assert text_of(document, '<select id="task">.*?</select>') == ["allmathocr"]
    assert text_of(document, '<select id="rollout">.*?</select>') == ["710"]


def test_search_and_order(folder, dumped):
    document = dumped(folder / "index.html", "#rollout=10&search=FIVE&order=reward")
    assert text_of(document, '<output id="place">.*?</output>') == ["1 of 1"]
    assert [card[:5] for card in cards(document)] == ["10.75", "00.50"]
    nothing = dumped(folder / "index.html", "#search=nowhere")
    assert "No group matches." in nothing
    assert '<main id="main" hidden' in nothing


def test_keys_walk_groups_and_rollouts(folder, dumped):
    def place(keys, address):
        # each key acts on what the last one led to, and a change of address takes effect a moment later
        script = f"""
            const press = (key) => document.body.dispatchEvent(new KeyboardEvent("keydown", {{ key, bubbles: true }}));
            {keys}.forEach((key, i) => setTimeout(press, 200 * (i + 1), key));
        """
        document = dumped(acting(folder, script), address)
        return text_of(document, '<pre id="prompt">.*?</pre>')[0].split()[-1]

    assert place(["ArrowRight"], "#rollout=10&group=1") == "m1?"
    # it stops at the last one
    assert place(["ArrowRight"] * 4 + ["ArrowLeft"], "#rollout=10&group=1") == "m1?"
    assert place(["["], "#rollout=10") == "old?"
    assert place(["[", "]", "ArrowRight"], "#rollout=10&group=1") == "m1?"


def test_what_the_policy_writes_is_never_markup(folder, dumped):
    attack = "</script></pre><img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
    hostile = completion(attack, 0.5, 0.1, error=attack, tokens=[attack, "\u2028</script>"])
    hostile["parts"] = {"accuracy": 0.5, "format": 1.0, attack: 0.5}
    files = RolloutFiles(folder, attack, None, 512)
    files.open(10)
    files.write(11, [(group(attack, attack, [hostile], prompt=attack, gold=attack, problem_type=attack), [])])
    document = dumped(folder / "index.html", "#rollout=11&search=%3Cimg+src%3Dx")
    assert attack in html.unescape(document)
    assert len(cards(document)) == 1
    assert "<img src=x" not in document.replace('"', "")
    assert re.findall("<title>.*?</title>", document)[0].startswith("<title>Rollouts of &lt;/script&gt;")
    assert len(re.findall("<script", document)) == 3  # rollouts.js, page.js and the rollout


def test_a_page_without_rollouts_and_a_rollout_that_is_gone(folder, dumped):
    (folder / "rollout_000007.js").unlink()
    assert "rollout 7 is no longer kept" in dumped(folder / "index.html", "#rollout=7")
    assert "Rollout 3 is not here." in dumped(folder / "index.html", "#rollout=3")
    (folder / "rollouts.js").write_text('const RUN = {"title": "", "rollouts": []};')
    assert "No rollout is written yet" in dumped(folder / "index.html")
