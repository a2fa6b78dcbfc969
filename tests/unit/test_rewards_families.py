"""Every problem type beside the first six: values by hand, and slow or foreign references."""

import itertools
import math
import random
import string

import pytest
from helpers.reward_cases import GOLD, accuracy, result

from lit_g2rpo.rewards import RewardConfig, score
from lit_g2rpo.rewards.answers.geometry import Box, iou
from lit_g2rpo.rewards.answers.numbers import count
from lit_g2rpo.rewards.answers.points import distance, inside, nearness, point_within, points, region
from lit_g2rpo.rewards.answers.references import references
from lit_g2rpo.rewards.answers.spans import span, span_iou
from lit_g2rpo.rewards.rules.caption import rouge_l
from lit_g2rpo.rewards.rules.chart import chart_answers_agree
from lit_g2rpo.rewards.rules.detection import labelled_boxes, matched_share
from lit_g2rpo.rewards.rules.document import document_similarity
from lit_g2rpo.rewards.rules.gui import click, click_reward
from lit_g2rpo.rewards.rules.segmentation import segmenter_prompt
from lit_g2rpo.rewards.rules.tracking import timed_track, track

DENSE = RewardConfig(dense=True)
SQUARE = ((100.0, 100.0), (300.0, 100.0), (300.0, 300.0), (100.0, 300.0))


def random_box(rng: random.Random) -> Box:
    (left, right), (top, bottom) = (sorted(rng.sample(range(1001), 2)) for _ in "xy")
    return float(left), float(top), float(right), float(bottom)


@pytest.mark.parametrize(
    ("answer", "gold", "value"),
    [
        ("12 May 1998", GOLD["document"], 1.0), ("may  12, 1998", GOLD["document"], 1.0), ("abxx", "abcd", 0.5),
        ("abxy", "abcde", 0.0), ("abcx", "abcd", 0.75), ("9", "10", 0.0), ("\\boxed{10}", "10", 1.0),
        ("\uff11\uff10", "10", 1.0), ("[1]", "[1]", 1.0), ('["a"]', "a", 0.0),
    ],
)  # fmt: skip
def test_document(answer: str, gold: str, value: float) -> None:
    assert accuracy("document", answer, gold) == value


def test_document_agrees_with_the_anls_package() -> None:
    package = pytest.importorskip("anls")
    rng = random.Random(0)
    for _ in range(2000):
        gold = ["".join(rng.choices("abcAB1", k=rng.randint(1, 9))) for _ in range(rng.randint(1, 3))]
        answer = "".join(c if rng.random() < 0.8 else rng.choice("abx1") for c in rng.choice(gold)) or "a"
        value = document_similarity(answer, gold)
        # the package drops an exact half, which the benchmarks keep
        assert value == 0.5 or value == pytest.approx(package.anls_score(answer, gold, threshold=0.5), abs=1e-9)


def test_references() -> None:
    assert references('["a", "b", " "]') == ["a", "b"]
    assert references("[1]") == ["[1]"]
    assert references(" ") == references('[""]') == []


@pytest.mark.parametrize(
    ("answer", "gold", "right"),
    [
        ("105", "100", True), ("95", "100", True), ("105.1", "100", False), ("94.9", "100", False),
        ("1,234", "1234", True), ("12%", "12", True), ("12", "12%", True), ("0.12", "12%", False),
        ("1950", "2010", False), ("2010", "2010", True), ("2010.0", "2010", True), ("2100", "2150", True),
        ("1.9%", "2%", True), ("0", "0.0", True), ("0.01", "0", False), ("-100", "100", False),
        ("Yes.", "yes", True), ("no", "yes", False), ("nan", "nan", True), ("", "", False), ("1 2 3", "3", False),
        ("\\boxed{104}", "100", True), ("14 or 15", "14.2", False),
    ],
)  # fmt: skip
def test_chart(answer: str, gold: str, right: bool) -> None:
    assert accuracy("chart", answer, gold) == right


def test_chart_with_options_is_a_choice() -> None:
    row = {"problem_type": "chart", "answer": "A", "options": ["A. 10", "B. 10.2"]}
    assert [score(f"<answer>{a}</answer>", row).accuracy for a in ("A", "B", "10.2", "10", "10.1")] == [1, 0, 0, 1, 0]
    assert not chart_answers_agree("B. 10.2", "10.2")


@pytest.mark.parametrize(
    ("text", "value"),
    [("7", 7), ("Seven", 7), ("twenty", 20), ("7.0", 7), ("0", 0), ("1,000", 1000), ("-1", None), ("7.5", None),
     ("", None), ("1 2 3 4 5 6 7", None), ("seven or eight", None), ("dozens", None)],
)  # fmt: skip
def test_count(text: str, value: int | None) -> None:
    assert count(text) == value


def test_counting_may_be_dense() -> None:
    assert [accuracy("counting", a) for a in ("7", "6", "14", "0")] == [1, 0, 0, 0]
    assert accuracy("counting", "6", config=DENSE) == pytest.approx(6 / 7)
    assert [accuracy("counting", a, config=DENSE) for a in ("7", "14", "0", "1e300")] == [1, 0, 0, 0]
    assert [accuracy("counting", a, "0", DENSE) for a in ("0", "1", "2")] == [1, 0, 0]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('[{"point_2d": [1, 2], "label": "dog"}]', [(1, 2)]), ('{"point_2d": [1, 2.5]}', [(1, 2.5)]),
        ('{"points": [[1, 2], [3, 4]]}', [(1, 2), (3, 4)]), ("[1, 2]", [(1, 2)]),
        ("[[1, 2], [3, 4]]", [(1, 2), (3, 4)]),         ('```json\n[{"point_2d": [0, 1000]}]\n```', [(0, 1000)]),
        ("[]", None), ("{}", None), ('{"points": []}', None), ('{"point_2d": [1, 2, 3]}', None), ("[1, 1001]", None),
        ("[-1, 1]", None), ('["1", "2"]', None), ("[true, 1]", None), ("[NaN, 1]", None), ('{"point": [1, 2]}', None),
        ('{"points": [[1, 2], 3]}', None), (f"[{', '.join(['[1, 2]'] * 101)}]", None), ("1, 2", None),
    ],
)  # fmt: skip
def test_points(text: str, found: list[tuple[float, float]] | None) -> None:
    assert points(text) == found


def test_points_are_worth_the_share_inside() -> None:
    assert accuracy("point grounding", '[{"point_2d": [250, 150]}]') == 1.0
    assert accuracy("point grounding", '[{"point_2d": [150, 250]}]') == 0.0
    grid = [[x, y] for x in range(0, 1000, 100) for y in range(0, 1000, 100)]
    assert accuracy("point grounding", str(grid), '{"boxes": [100, 100, 300, 300]}') == pytest.approx(9 / 100)


def test_points_near_gold_points() -> None:
    gold = '{"points": [[100, 100], [500, 500]]}'
    assert accuracy("point grounding", "[[500, 500], [100, 100]]", gold) == 1.0
    assert accuracy("point grounding", "[[500, 550], [100, 150]]", gold) == pytest.approx(math.exp(-0.5))
    assert accuracy("point grounding", "[[100, 100]]", gold) == 0.0
    assert accuracy("point grounding", "[[100, 100], [500, 500], [500, 500]]", gold) == 0.0


def test_nearness_is_the_best_matching() -> None:
    rng = random.Random(3)
    for _ in range(50):
        a, b = ([(rng.uniform(0, 99), rng.uniform(0, 99)) for _ in range(3)] for _ in "ab")
        mean = min(sum(map(math.dist, order, b)) for order in itertools.permutations(a)) / 3
        assert nearness(a, b) == pytest.approx(math.exp(-mean * mean / 5000))


def test_regions() -> None:
    for text in ('{"boxes": [100, 100, 300, 300]}', '[{"bbox_2d": [100, 100, 300, 300]}]', "[100, 100, 300, 300]",
                 '{"polygon": [[100, 100], [300, 100], [300, 300], [100, 300]]}'):  # fmt: skip
        assert region(text) == SQUARE
    for text in ('{"polygon": [[0, 0], [10, 10]]}', '{"polygon": [[0, 0], [10, 10], [20, 20]]}', "[1, 2]", "cat"):
        assert region(text) is None


def test_inside_agrees_with_shapely() -> None:
    geometry = pytest.importorskip("shapely.geometry")
    rng = random.Random(1)
    for _ in range(60):
        angles = sorted(rng.uniform(0, 6.28) for _ in range(rng.randint(3, 9)))
        shape = tuple((500 + (r := rng.randint(100, 400)) * math.cos(a), 500 + r * math.sin(a)) for a in angles)
        polygon = geometry.Polygon(shape)
        for _ in range(20):
            point = (rng.uniform(0, 1000), rng.uniform(0, 1000))
            assert inside(point, shape) == polygon.covers(geometry.Point(point))
            assert distance(point, shape) == pytest.approx(polygon.distance(geometry.Point(point)), abs=1e-9)
        assert inside(point_within(shape), shape)


def test_edges_and_corners_are_inside() -> None:
    for point in ((100, 100), (200, 100), (300, 300), (100, 250), (200, 200)):
        assert inside(point, SQUARE)
    for point in ((99.9, 200), (200, 300.1), (0, 100), (400, 100)):
        assert not inside(point, SQUARE)
    concave = region('{"polygon": [[0, 0], [900, 0], [900, 900], [800, 900], [800, 100], [0, 100]]}')
    assert concave is not None
    assert inside(point_within(concave), concave)


@pytest.mark.parametrize(
    ("text", "point"),
    [
        ('{"point_2d": [150, 150]}', (150, 150)), ("[150, 150]", (150, 150)), ('[{"point_2d": [1, 2]}]', (1, 2)),
        ('{"action": "left_click", "coordinate": [150, 150]}', (150, 150)),
        ('<tool_call>\n{"name": "computer_use", "arguments": {"coordinate": [1, 2]}}\n</tool_call>', (1, 2)),
        ("[[1, 2], [3, 4]]", None), ('{"coordinate": [1, 2, 3]}', None), ('{"coordinate": [1920, 2]}', None),
        ('{"arguments": 5}', None), ('{"arguments": {"action": "wait"}}', None), ("click", None),
    ],
)  # fmt: skip
def test_click(text: str, point: tuple[float, float] | None) -> None:
    assert click(text) == point


def test_clicks_hit_or_come_near() -> None:
    assert [accuracy("GUI grounding", a) for a in ("[100, 200]", "[200, 150]", "[99, 150]")] == [1, 1, 0]
    assert click_reward((50, 150), SQUARE, dense=True) == pytest.approx(math.exp(-1))
    assert accuracy("GUI grounding", "[340, 230]", config=DENSE) == pytest.approx(math.exp(-1))
    assert accuracy("GUI grounding", "[200, 150]", config=DENSE) == 1.0


def test_detection_by_hand() -> None:
    both = GOLD["detection"]
    dog = '{"bbox_2d": [100, 100, 300, 300], "label": "Dog "}'
    assert accuracy("detection", both) == 1.0
    assert accuracy("detection", f"[{dog}]") == accuracy("detection", f"[{dog}, {dog}]") == 0.5
    assert accuracy("detection", f"[{dog}, {dog}, {dog}, {dog}]") == 0.25
    assert accuracy("detection", both.replace("cat", "cow")) == 0.5
    assert accuracy("detection", f"[{dog.replace('Dog', 'cat')}]") == 0.0
    assert accuracy("detection", f"[{dog.replace('300]', '199]')}]") == 0.0
    assert accuracy("detection", f"[{dog.replace('300]', '200]')}]") == 0.5  # overlap of exactly half
    assert accuracy("detection", "[]") == 0.0
    assert accuracy("detection", "[]", "[]") == accuracy("detection", '{"boxes": []}', "[]") == 1.0
    assert accuracy("detection", f"[{dog}]", "[]") == 0.0
    assert accuracy("detection", f"[{dog}]", '{"boxes": [[100, 100, 300, 300]]}') == 1.0
    assert accuracy("detection", '{"boxes": [[100, 100, 300, 300]]}', f"[{dog}]") == 0.0


def test_detection_does_not_pay_for_junk() -> None:
    right = [((i * 100.0, 0.0, i * 100.0 + 50, 50.0), "") for i in range(3)]
    junk = [((900.0, 900.0, 901.0 + i / 8, 950.0), "") for i in range(400)]
    assert matched_share(right + junk, right) == matched_share(junk + right, right) == pytest.approx(3 / 403)
    many = [{"bbox_2d": [0, 0, 1, 1]}] * 501
    assert labelled_boxes(str(many).replace("'", '"')) is None


def test_detection_is_the_largest_matching() -> None:
    rng = random.Random(5)
    for _ in range(60):
        gold = [((x := rng.randint(0, 8) * 10.0, 0.0, x + 50, 50.0), "") for _ in range(rng.randint(1, 4))]
        answer = [((x := rng.randint(0, 8) * 10.0, 0.0, x + 50, 50.0), "") for _ in range(rng.randint(1, 4))]
        padded = answer + [((0.0, 900.0, 1.0, 901.0), "")] * len(gold)
        best = max(
            sum(iou(a[0], g[0]) >= 0.5 for a, g in zip(order, gold, strict=False))
            for order in itertools.permutations(padded, len(gold))
        )
        assert matched_share(answer, gold) == pytest.approx(best / max(len(answer), len(gold)))


def test_segmentation_by_hand() -> None:
    gold = GOLD["segmentation"]
    assert accuracy("segmentation", gold) == 1.0
    shifted = gold.replace("[150, 150], [200, 200], [250, 250]", "[180, 190], [230, 240], [280, 290]")
    assert accuracy("segmentation", shifted) == pytest.approx(0.75 + 0.25 * math.exp(-0.5))
    assert accuracy("segmentation", gold.replace("[100, 100, 300, 300]", "[100, 100, 300, 200]")) == pytest.approx(0.75)
    video = gold[:-1] + ', "time": 4.0}'
    assert accuracy("segmentation", video, video) == 1.0
    assert accuracy("segmentation", video.replace("4.0", "6"), video) == pytest.approx(0.7 + 0.3 * math.exp(-1))
    for answer, right in ((gold, video), (video, gold)):
        assert (result("segmentation", answer, right).accuracy, result("segmentation", answer, right).error) == (
            0,
            "unparsed",
        )
        assert result("segmentation", answer, right, RewardConfig(style="onethinker")).total == pytest.approx(0.1)


@pytest.mark.parametrize("broken", ["[150, 150], ", '"negative_points"', '"boxes": [100, 100, 300, 300], '])
def test_a_broken_prompt_of_a_segmenter_is_worth_nothing(broken: str) -> None:
    text = GOLD["segmentation"].replace(broken, "")
    assert segmenter_prompt(text) is None
    assert accuracy("segmentation", text) == 0.0


@pytest.mark.parametrize(
    ("a", "b", "value"),
    [((0, 10), (0, 10), 1), ((0, 10), (5, 15), 1 / 3), ((0, 5), (5, 10), 0), ((0, 1), (8, 9), 0),
     ((2, 4), (0, 10), 0.2),      ((5, 5), (5, 5), 1), ((5, 5), (0, 10), 0)],
)  # fmt: skip
def test_span_iou(a: tuple[float, float], b: tuple[float, float], value: float) -> None:
    assert span_iou(a, b) == span_iou(b, a) == pytest.approx(value)


@pytest.mark.parametrize(
    "text",
    ['{"time": [20, 10]}', '{"time": [1]}', '{"time": [NaN, 2]}', '{"time": [1, Infinity]}', '{"time": ["1", "2"]}',
     '{"time": [-1, 2]}', '{"time": [1, 2], "more": 1}', "[1, 2]", "1 to 2", '{"time": [1, 1e400]}'],
)  # fmt: skip
def test_not_a_span(text: str) -> None:
    assert span(text) is None
    assert accuracy("temporal grounding", text) == 0.0


def test_tracks_are_scored_over_gold_seconds() -> None:
    one = '{"boxes": {"1": [100, 100, 300, 300]}}'
    assert accuracy("tracking", one) == 0.5
    assert accuracy("tracking", GOLD["tracking"], one) == 0.5
    assert accuracy("tracking", one, one) == 1.0
    assert accuracy("tracking", '{"boxes": {"01": [100, 100, 300, 200], "2.0": [0, 0, 50, 50]}}') == pytest.approx(0.75)
    assert accuracy("tracking", '{"boxes": {"7": [100, 100, 300, 300]}}') == 0.0
    timed = '{"time": [8.5, 10.5], "boxes": {"10": [0, 0, 50, 50]}}'
    assert accuracy("spatial-temporal grounding", timed) == pytest.approx(0.5 + 0.25)
    late = GOLD["spatial-temporal grounding"].replace("[8.5, 10.5]", "[9.5, 11.5]")
    assert accuracy("spatial-temporal grounding", late) == pytest.approx(0.5 / 3 + 0.5)


@pytest.mark.parametrize(
    "text",
    ['{"boxes": {}}', '{"boxes": []}', '{"boxes": {"a": [0, 0, 5, 5]}}', '{"boxes": {"1": [5, 5, 0, 0]}}',
     '{"boxes": {"1": [0, 0, 5, 5], "1": [0, 0, 9, 9]}}', '{"boxes": {"1": [0, 0, 5, 5], "1.0": [0, 0, 9, 9]}}',
     '{"1": [0, 0, 5, 5]}', '{"boxes": {"1": [0, 0, 5, 5], ..., "3": [0, 0, 5, 5]}}'],
)  # fmt: skip
def test_not_a_track(text: str) -> None:
    assert track(text) is None
    assert timed_track(text.replace("{", '{"time": [1, 2], ', 1)) is None


def test_rouge_l_by_hand() -> None:
    assert rouge_l("the cat sat", "the cat sat") == 1.0
    assert rouge_l("the dog sat", "the cat sat") == pytest.approx(2 / 3)
    assert rouge_l("The cat, sat.", "the CAT sat") == 1.0
    assert rouge_l("sat", "the cat sat") == pytest.approx(0.5)
    assert rouge_l("\u732b\u5728\u7761\u89c9", "\u732b\u5728\u7761\u89c9") == 1.0
    assert rouge_l("\u732b\u5728", "\u732b\u5728\u7761\u89c9") == pytest.approx(2 / 3)
    assert rouge_l("!!", "the cat") == rouge_l("word " * 1001, "word") == 0.0


def test_rouge_l_agrees_with_the_rouge_score_package() -> None:
    scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(["rougeL"])
    rng = random.Random(2)
    for _ in range(300):
        a, b = (" ".join(rng.choices(["The", "cat", "sat,", "on", "a", "mat."], k=rng.randint(1, 12))) for _ in "ab")
        assert rouge_l(a, b) == pytest.approx(scorer.score(b, a)["rougeL"].fmeasure)


@pytest.mark.parametrize(
    ("answer", "gold", "right"),
    [("9.81", "9.81", 1), ("9.8", "9.81", 0),
     ("0.33", "0.333", 1), ("\\frac{1}{2}", "0.50001", 1), ("\\frac{1}{2}", "0.6", 0), ("25\\%", "25%", 1),
     ("$\\frac12$", "\\frac{1}{2}", 1),
     ("6.02e23", "6.02e23", 1), ("NaCl", "NaCl", 1)],
)  # fmt: skip
def test_science_is_judged_by_the_form_of_gold(answer: str, gold: str, right: float) -> None:
    assert accuracy("scientific", answer, gold) == right


def test_science_with_options_is_a_choice() -> None:
    row = {"problem_type": "scientific", "answer": "B", "options": ["A. 1", "B. 2"]}
    assert [score(f"<answer>{a}</answer>", row).accuracy for a in ("B", "2", "A", "1")] == [1, 1, 0, 0]


def test_box_order_does_not_matter() -> None:
    rng = random.Random(7)
    for _ in range(50):
        gold = [(random_box(rng), rng.choice(string.ascii_lowercase[:3])) for _ in range(5)]
        answer = [(random_box(rng), rng.choice("abc")) for _ in range(3)] + gold[:2]
        value = matched_share(answer, gold)
        assert matched_share(rng.sample(answer, 5), rng.sample(gold, 5)) == value


def test_answers_of_the_wrong_form_have_a_code() -> None:
    for kind in ("point grounding", "GUI grounding", "detection", "segmentation", "tracking", "counting"):
        assert (result(kind, "a dog").error, result(kind, GOLD[kind], "a dog").error) == ("unparsed", "bad_gold")
