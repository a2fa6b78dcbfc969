"""The page of a comparison in a real browser, opened from disk."""

import html
import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from helpers.browser import BROWSER, DARK, acting, dump, text_of
from helpers.processes import Commands
from helpers.synthetic_runs import make_run, points, recipe

from lit_g2rpo.comparison.compare import Options, compare
from lit_g2rpo.comparison.page import LOOK, page

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium or chrome on the path")
WAIT = "await new Promise((then) => setTimeout(then, 300));"
TELL = "const told = document.createElement('output'); told.id = 'told'; document.body.append(told);"


def arms(root: Path) -> list[Path]:
    """Two groups of three seeds and one of a single run, which has no rollout page."""
    folders = [
        make_run(
            root / place / f"version {seed}", recipe(seed, scope=scope), points(seed, gain=gain, others=6), page=True
        )
        for place, scope, gain in (("a", "task", 0.2), ("b", "group", 0.3))
        for seed in range(3)
    ]
    return [*folders, make_run(root / "c" / "version_0", recipe(0, scope="batch"), points(9, gain=0.1))]


@pytest.fixture
def written(tmp_path: Path) -> Path:
    return write(arms(tmp_path / "runs"), tmp_path / "out")


def write(folders: list[Path], output: Path) -> Path:
    output.mkdir(exist_ok=True)
    path = output / "compare.html"
    path.write_text(page(compare(folders, Options(target=0.6)), output), encoding="utf-8")
    return path


def told(commands: Commands, path: Path, script: str, *options: str) -> Any:
    """What a reader finds on the page, whose script sets ``found``, once the charts are drawn."""
    act = f"{TELL} setTimeout(async () => {{ let found; {script}; told.textContent = JSON.stringify(found); }}, 500);"
    document = dump(commands, acting(path, act), *options)
    return json.loads(text_of(document, '<output id="told">.*?</output>')[0])


def test_the_page_has_tables_charts_and_links(written: Path, commands: Commands) -> None:
    document = dump(commands, written, "--window-size=1280,2400")
    titles = text_of(document, "<h3>.*?</h3>")
    assert titles[:4] == [
        "val/accuracy",
        *(f"val/accuracy/{task}" for task in ("chart_figure_qa", "math_reasoning", "ocr")),
    ]
    # a chart that was drawn has a size
    assert len(re.findall(r"<canvas[^>]* width=\"[1-9]", document)) >= 4
    rows = [[*text_of(row, "<td.*?</td>")] for row in re.findall("<tr.*?</tr>", document, re.DOTALL)]
    first = next(row for row in rows if row[1:2] == ["scope=group"])
    assert first[0] == " 2"
    assert first[2] == "3"
    assert first[6] == "+0.100 ±0.000"
    assert first[7] == "0.250"
    links = re.findall('<a href="([^"]*)"', document)
    assert len(links) == 6
    assert all((written.parent / unquote(link)).is_file() and "version%20" in link for link in links)
    assert text_of(document, "<details.*?</summary>") == ["perf 5 charts", "rollout/reward 1 chart", "train 6 charts"]
    assert "one seed, so no interval: group 3" in text_of(document, '<ul id="notes">.*?</ul>')[0]


def test_a_tooltip_says_mean_interval_and_seeds(written: Path, commands: Commands) -> None:
    script = f"""
        const chart = [...drawn.values()][0], box = chart.canvas.getBoundingClientRect();
        const x = box.left + chart.scales.x.getPixelForValue(148), y = box.top + 40;
        chart.canvas.dispatchEvent(new MouseEvent("mousemove", {{ clientX: x, clientY: y, bubbles: true }}));
        {WAIT}
        const tip = at("tip"), inside = tip.getBoundingClientRect().right <= innerWidth;
        found = [tip.hidden, [...tip.children].map((line) => line.textContent), inside];
    """
    hidden, (title, *lines), inside = told(commands, written, script)
    assert (hidden, title, inside) == (False, "rollout 150", True)
    metric = compare(sorted(written.parents[1].glob("runs/*/*")), Options()).metrics["val/accuracy"]
    band = metric.bands[1]
    assert [line.split(":")[0] for line in lines] == [" scope=group", " scope=task", " scope=batch"]
    assert lines[0] == f" scope=group: {band.mean[-1]:.4g} ± {band.half[-1]:.4g} (3 seeds)"
    # one seed claims no interval
    assert re.fullmatch(r" scope=batch: [\d.]+ \(1 seed\)", lines[2])


def test_groups_are_hidden_in_every_chart(written: Path, commands: Commands) -> None:
    script = """
        const visible = (chart) => chart.data.datasets.filter((_, index) => chart.isDatasetVisible(index));
        const shown = () => [...drawn.values()].map((chart) => [...new Set(visible(chart).map((d) => d.place))].join());
        const button = document.querySelectorAll("#legend button")[1];
        const before = shown();
        button.click();
        found = [before, shown(), button.getAttribute("aria-pressed")];
    """
    before, after, pressed = told(commands, written, script)
    assert set(before) == {"0,1,2"}
    assert set(after) == {"0,2"}
    assert pressed == "false"


def test_metrics_are_searched(written: Path, commands: Commands) -> None:
    script = f"""
        at("search").value = "OTHER_1";
        at("search").dispatchEvent(new Event("input"));
        {WAIT}
        found = [...document.querySelectorAll("h3")].map((node) => node.textContent);
    """
    assert told(commands, written, script) == ["train/other_1/math_reasoning"]


def test_a_search_without_a_hit_says_so(written: Path, commands: Commands) -> None:
    script = """
        found = [at("nothing").hidden];
        at("search").value = "nowhere";
        at("search").dispatchEvent(new Event("input"));
        found.push(at("nothing").hidden);
    """
    assert told(commands, written, script) == [True, False]


def test_it_fits_a_phone_and_the_dark(written: Path, commands: Commands) -> None:
    script = """found = [
        document.documentElement.scrollWidth, innerWidth, getComputedStyle(document.body).backgroundColor,
        [...drawn.values()][0].data.datasets[0].borderColor]"""
    light = told(commands, written, script, "--window-size=500,900")
    dark = told(commands, written, script, "--window-size=500,900", DARK)
    assert light[0] <= light[1] == 500
    assert (light[2], dark[2]) == ("rgb(246, 247, 249)", "rgb(21, 24, 28)")
    assert light[3] != dark[3]


def test_it_is_one_file_of_the_same_look_that_asks_for_nothing(written: Path) -> None:
    text = written.read_text(encoding="utf-8")
    assert LOOK.read_text(encoding="utf-8") in text
    assert "default-src 'none'" in text
    assert not re.search(r"<(?:link|img|iframe)|<script[^>]+src|@import|url\(|sourceMappingURL", text)


def test_what_comes_from_a_run_is_never_markup(tmp_path: Path, commands: Commands) -> None:
    attack = "</script><img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
    folders = arms(tmp_path / "runs")[:2]
    folders.append(
        make_run(
            tmp_path / "runs" / "d",
            recipe(0, scope=attack),
            [{"rollout": 0, f"val/accuracy/{attack}": 1.0, attack: 2.0}],
        )
    )
    document = dump(commands, write(folders, tmp_path / "out"))
    assert "<title>Comparison of runs</title>" in document
    assert "<img" not in document
    assert f"scope={attack}" in html.unescape(document)


def test_long_curves_are_thinned_and_say_so(tmp_path: Path, commands: Commands) -> None:
    long = [{"rollout": k, "train/loss": 0.1 * k, "val/accuracy": 0.5} for k in range(1001)]
    path = write([make_run(tmp_path / "runs" / "long", recipe(0), long)], tmp_path / "out")
    script = (
        "const curve = DATA.charts['train/loss'].curves[0]; found = [curve.x.length, curve.x.at(-1), curve.mean.at(-1)]"
    )
    assert told(commands, path, script) == [334, 1000, 100.0]
    assert "val/accuracy, 1 of 3 points drawn" in text_of(dump(commands, path), "<h3>.*?</h3>")
