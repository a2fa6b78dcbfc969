"""Pages of the site that are not files in docs: the table of verbs, and files from the rest of the repository."""

import json
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

from lit_g2rpo.__main__ import VERBS

ROOT = Path(__file__).resolve().parents[2]
PAGES = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "examples/custom_reward.py": "custom_reward.md",
    "examples/custom_task.ipynb": "custom_task.md",
    "examples/minimal_g2rpo.py": "minimal_g2rpo.md",
}
"""Files outside docs, and the page that each becomes."""


def _page(name: str) -> str:
    text = (ROOT / name).read_text()
    if name.endswith(".md"):
        # links are written as seen from the root of the repository
        return re.sub(r"\]\((?:docs/)?", "](", text)
    if name.endswith(".ipynb"):
        cells = [(cell["cell_type"], "".join(cell["source"])) for cell in json.loads(text)["cells"]]
        page = "\n\n".join(source if kind == "markdown" else f"```python\n{source}\n```" for kind, source in cells)
        return page.replace("](../docs/", "](") + "\n"
    return f"# {name}\n\n```python\n{text}```\n"


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that come from outside docs."""
    for name, page in PAGES.items():
        files.append(File.generated(config, page, content=_page(name)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Fill in the table of verbs, and turn links to files outside docs into links to their pages."""
    up = "../" * page.file.src_uri.count("/")
    for name, target in PAGES.items():
        markdown = markdown.replace(f"](../{up}{name}", f"]({up}{target}")
    rows = "".join(f"| `{verb}` | {summary} |\n" for verb, (_, summary) in VERBS.items())
    return markdown.replace("<!-- verbs -->", f"| verb | |\n|---|---|\n{rows}")
