"""A real browser that opens a page from disk and returns the resulting document."""

import html
import re
import shutil
from pathlib import Path

from helpers.processes import Commands

BROWSER = next((path for name in ("chromium", "google-chrome", "chrome") if (path := shutil.which(name))), None)
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
FRAMES = "<script>requestAnimationFrame = (draw) => setTimeout(draw, 16);</script>"
"""Without this, code that waits for a frame would hang, since a browser that dumps a document paints none."""
DARK = "--blink-settings=preferredColorScheme=0"


def dump(commands: Commands, page: Path, *options: str, address: str = "") -> str:
    """Return the document after its scripts have run; ``address`` is what follows the page's own."""
    profile = page.parent.parent / "profile"
    done = commands.run(BROWSER, *QUIET, *options, f"--user-data-dir={profile}", page.as_uri() + address)
    assert done.returncode == 0, done.stderr
    return done.stdout


def acting(page: Path, script: str) -> Path:
    """Copy a page and add a script that acts like a reader once the page is loaded."""
    copy = page.with_name("acting.html")
    text = page.read_text(encoding="utf-8")
    before, mark, after = text.rpartition("</body>")
    act = f"<script>addEventListener('load', () => {{{script}}});</script>"
    copy.write_text(before.replace("<head>", f"<head>{FRAMES}", 1) + act + mark + after, encoding="utf-8")
    return copy


def text_of(document: str, pattern: str) -> list[str]:
    """Return the text of a pattern's matches in a document."""
    return [html.unescape(re.sub("<[^>]*>", "", found)) for found in re.findall(pattern, document, re.DOTALL)]
