"""The page of a run in a real browser, opened from disk."""

import html
import json
import re
from collections.abc import Callable

import pytest
from helpers.browser import BROWSER, acting, dump, text_of
from helpers.processes import Commands
from PIL import Image

from lit_g2rpo.callbacks.rollouts.files import RolloutFiles

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium or chrome on the path")


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


def answered(text, reward, **changed):
    """A completion of a validation, from which nothing is learned."""
    whole = completion(text, reward, 0.0, **changed)
    return {key: value for key, value in whole.items() if key not in ("advantage", "valid")}


@pytest.fixture
def validated(folder):
    """Three validations of two prompts besides."""
    files = RolloutFiles(folder, "g2rpo/version_0", None, 512)
    files.open(10)
    image = Image.new("RGB", (64, 64), (0, 0, 200))
    for number, reward in ((0, 0.25), (5, 0.5), (10, 0.75)):
        box = [[100 + number, 200, 300, 400]]
        files.write(
            number,
            [
                (
                    group("ocr", "v1", [answered(f"at {number}", reward, boxes=box)], boxes=[[100, 200, 300, 400]]),
                    [image],
                ),
                (group("math", "v2", [answered(f"two at {number}", 1 - reward, truncated=not number)]), []),
            ],
            "validation",
        )
    return folder


@pytest.fixture
def dumped(commands: Commands) -> Callable[..., str]:
    """The document after its scripts have run."""

    return lambda page, address="": dump(commands, page, address=address)


def cards(document: str) -> list[str]:
    return text_of(document, "<article.*?</article>")


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
    # half and all of the full color, which 2 nats have
    assert re.findall(r"--heat-level: ([\d.]+)", document) == ["0.25", "0.5"] * 2
    summary = "2 groups, reward 0.63, accuracy 0.63, length 2.0 tokens, entropy 0.75 nats, truncated 25 %, dropped 0 %"
    assert summary in text_of(document, '<p id="message".*?</p>')[0]


def test_every_box_has_the_number_of_its_completion(folder, dumped):
    document = dumped(folder / "index.html", "#rollout=10&task=ocr&group=2")
    labels = re.findall(
        r'<span class="label (\w+)"(?: data-name="(\w+)")? style="left: ([\d.]+)px; top: ([\d.]+)px;">(\w+)<', document
    )
    # two boxes begin at nearly one point, so that the labels stand side by side
    assert [(kind, name, text) for kind, name, _, _, text in labels] == [("true", "", "true"), ("predicted", "1", "1")]
    assert labels[0][3] == labels[1][3]
    assert 10 < float(labels[1][2]) - float(labels[0][2]) < 50
    assert [re.search(r'data-name="(\w+)"', card)[1] for card in re.findall("<article.*?>", document)] == ["0", "1"]


def test_labels_of_many_boxes_lie_on_the_image_and_on_no_other_label(folder, dumped):
    files = RolloutFiles(folder, "g2rpo/version_0", None, 512)
    files.open(10)
    boxes = [completion("x", 0.5, 0.0, boxes=[[980, 990 - shift, 1000, 1000]]) for shift in range(30)]
    files.write(11, [(group("ocr", "o9", boxes, boxes=[[0, 0, 10, 10]]), [Image.new("RGB", (300, 300))])])
    script = """
        const boxes = [...document.querySelectorAll(".label")].map((node) => node.getBoundingClientRect());
        const frame = document.querySelector(".image").getBoundingClientRect();
        let apart = 0;
        boxes.forEach((a, i) => boxes.slice(i + 1).forEach((b) => {
            apart += a.right <= b.left + 1 || b.right <= a.left + 1 || a.bottom <= b.top + 1 || b.bottom <= a.top + 1;
        }));
        const inside = boxes.filter((box) => box.left >= frame.left - 1 && box.right <= frame.right + 1 &&
            box.top >= frame.top - 1 && box.bottom <= frame.bottom + 1).length;
        document.title = `${boxes.length} labels, ${apart} pairs apart, ${inside} inside`;
    """
    document = dumped(acting(folder / "index.html", f"setTimeout(() => {{{script}}}, 500)"), "#rollout=11")
    assert "<title>31 labels, 465 pairs apart, 31 inside</title>" in document


ORDERS = {
    # rewards by hand: o1 0.25 and 1, m1 0 and dropped, o2 0.5 (truncated, unparsed) and 0.75
    "sort=reward": "m1 o1 o2",
    "sort=-reward": "o1 o2 m1",
    "sort=-spread": "o1 o2 m1",
    "sort=spread": "m1 o2 o1",
    "sort=-truncated": "o2 o1 m1",
    "sort=-error": "o2 o1 m1",
    "sort=-dropped": "m1 o1 o2",
    "only=low": "m1",
    "only=high": "o1 o2",
    "only=differ": "o1 o2",
    "only=equal": "m1",
    "only=truncated": "o2",
    "only=error": "o2",
    "only=dropped": "m1",
    "only=learned": "o1 o2",
    "only=learned&sort=-truncated": "o2 o1",
    # as sampled, in a row for each task
    "sort=nonsense&only=nonsense": "o1 o2 m1",
}


def test_groups_are_put_in_order_and_left_out(folder, dumped):
    script = f"""
        const found = {{}};
        const addresses = {list(ORDERS)};
        const note = () => [...document.querySelectorAll("#strip button")].map((b) => b.title.split(":")[0]).join(" ");
        const look = (i) => {{
            if (i >= addresses.length) {{ document.title = JSON.stringify(found); return; }}
            location.hash = "#rollout=10&" + addresses[i];
            setTimeout(() => {{ found[addresses[i]] = note(); look(i + 1); }}, 50);
        }};
        setTimeout(look, 200, 0);
    """
    document = dumped(acting(folder / "index.html", script), "#rollout=10")
    assert json.loads(text_of(document, "<title>.*?</title>")[0]) == ORDERS


def test_validation_prompts_are_shown_without_what_training_alone_has(validated, dumped):
    document = dumped(validated / "index.html", "#validation=5")
    (card,) = cards(document)
    assert card.startswith("00.50accuracy0.50format1.00")
    assert "A " not in card
    assert "Validation after 5 rollouts, step 5, all tasks: 2 groups, reward 0.50" in document
    assert text_of(document, '<select id="rollout">.*?</select>') == ["0510"]
    assert "dropped" not in text_of(document, '<select id="only">.*?</select>')[0]
    # the newest one where the address names none, and a run that has no rollout yet
    assert "Validation after 10 rollouts" in dumped(validated / "index.html", "#validation")
    (validated / "rollouts.js").write_text('const RUN = {"title": "", "rollouts": [], "validations": [0]};')
    assert "Validation after 0 rollouts" in dumped(validated / "index.html")


def test_a_prompt_is_followed_over_validations(validated, dumped):
    document = dumped(validated / "index.html", "#validation=5&follow=v1")
    assert "v1 in 3 of 3 validations" in document
    headings = text_of(document, '<section class="followed".*?</h2>')
    assert headings == [
        f"validation after {n} rollouts: mean reward {r}" for n, r in ((0, 0.25), (5, "0.50"), (10, 0.75))
    ]
    assert [card[:7] for card in cards(document)] == ["00.25ac", "50.50ac", "100.75a"]
    assert re.findall(r"<button[^>]*><small>(\d+)</small>([\d.]+)<", document) == [
        ("0", "0.25"),
        ("5", "0.50"),
        ("10", "0.75"),
    ]
    assert sorted(re.findall(r'<span class="label predicted" data-name="(\d+)"', document)) == ["0", "10", "5"]
    nobody = dumped(validated / "index.html", "#validation=5&follow=v9")
    assert "v9 is in no validation that is kept." in nobody


def test_a_training_prompt_that_came_again_is_followed_too(folder, dumped):
    files = RolloutFiles(folder, "g2rpo/version_0", None, 512)
    files.open(10)
    files.write(12, [(group("ocr", "old", [completion("late", 0.75, 0.5), completion("later", 0.25, -0.5)]), [])])
    document = dumped(folder / "index.html", "#rollout=12&follow=old")
    assert "old in 2 of 3 rollouts" in document
    assert [card[:8] for card in cards(document)] == ["70.25A 0", "12.00.75", "12.10.25"]


def test_keys_lead_to_validation_and_follow_a_prompt(validated, dumped):
    script = """
        const press = (key) => document.body.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
        ["v", "ArrowRight", "["].forEach((key, i) => setTimeout(press, 200 * (i + 1), key));
        setTimeout(() => document.getElementById("follow").click(), 900);
    """
    document = dumped(acting(validated / "index.html", script), "#rollout=10")
    assert "v2 in 3 of 3 validations" in document
    assert re.search(r'<button[^>]*aria-current="true"[^>]*><small>5</small>', document)
    again = dumped(acting(validated / "index.html", script + 'setTimeout(press, 1200, "f");'), "#rollout=10")
    assert "Validation after 5 rollouts" in again
    assert text_of(again, '<output id="place">.*?</output>') == ["2 of 2"]


def test_the_search_box_says_what_the_address_searches_for(folder, dumped):
    script = """
        const search = document.getElementById("search");
        search.focus();
        search.value = "five";
        search.dispatchEvent(new Event("input"));
        setTimeout(() => { location.hash = "#rollout=10&search=three"; }, 200);
        setTimeout(() => { document.title = `searched for ${search.value}`; }, 400);
    """
    document = dumped(acting(folder / "index.html", script), "#rollout=10")
    assert "<title>searched for three</title>" in document
    assert text_of(document, '<pre id="prompt">.*?</pre>')[0].endswith("What is m1?")


@pytest.mark.parametrize("address", ["#rollout=10&task=ocr&group=2", "#validation=5&follow=v1"])
def test_nothing_is_wider_than_a_phone(validated, dumped, address):
    # a window of a browser without a head is never so narrow
    sizes = "`${document.documentElement.scrollWidth} of ${document.documentElement.clientWidth} pixels`"
    acting(validated / "index.html", f"setTimeout(() => parent.postMessage({sizes}, '*'), 1000)")
    frame = validated / "frame.html"
    frame.write_text(
        "<script>addEventListener('message', (event) => { document.title = event.data; });</script>"
        f'<iframe src="acting.html{address}" style="width: 360px; height: 800px; border: 0"></iframe>'
    )
    assert "<title>345 of 345 pixels</title>" in dumped(frame)


def test_the_newest_rollout_comes_first_and_all_its_groups(folder, dumped):
    document = dumped(folder / "index.html")
    assert text_of(document, '<output id="place">.*?</output>') == ["1 of 3"]
    assert re.findall(r'<button class="dropped".*?>', document)
    assert text_of(document, '<select id="task">.*?</select>') == ["allmathocr"]
    assert text_of(document, '<select id="rollout">.*?</select>') == ["710"]


def test_search_and_order_choose_what_is_shown(folder, dumped):
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
        document = dumped(acting(folder / "index.html", script), address)
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
    # rollouts.js and the page's own four; a rollout's leaves when it has run
    assert len(re.findall("<script", document)) == 5


def test_a_page_without_rollouts_and_a_rollout_that_is_gone(folder, dumped):
    (folder / "rollout_000007.js").unlink()
    assert "rollout 7 is no longer kept" in dumped(folder / "index.html", "#rollout=7")
    assert "Rollout 3 is not here." in dumped(folder / "index.html", "#rollout=3")
    (folder / "rollouts.js").write_text('const RUN = {"title": "", "rollouts": []};')
    assert "No rollout is written yet" in dumped(folder / "index.html")
