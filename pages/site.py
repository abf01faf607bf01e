"""The site of docs/: `python pages/site.py` builds it into build/site and fails on a dead link; `--serve` shows it.

Pages are copied to build/docs first, README and CONTRIBUTING among them. A link to a file that is no page becomes the file's
path, or with `repo_url` in zensical.toml a link into the repository.
"""

from __future__ import annotations

import json
import posixpath
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from notebook import as_markdown

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "build" / "docs"
BROUGHT = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md"}
"""Pages that lie beside docs/, and their names in the site."""
_LINK = re.compile(r"(?P<picture>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^)#\s]+)(?P<anchor>#[^)\s]*)?\)")
_FENCE = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)


def prepare() -> None:
    """Write the pages of the site into build/docs."""
    shutil.rmtree(SOURCE, ignore_errors=True)
    shutil.copytree(ROOT / "docs", SOURCE)
    repository = tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))["project"].get("repo_url", "")
    pages = {path.name: f"docs/{path.name}" for path in SOURCE.glob("*.md")} | {v: k for k, v in BROUGHT.items()}
    pages |= {f"{path.stem}.md": f"docs/{path.name}" for path in SOURCE.glob("*.ipynb")}
    for page, path in pages.items():
        text = (ROOT / path).read_text(encoding="utf-8")
        if path.endswith(".ipynb"):
            text = as_markdown(json.loads(text))
        (SOURCE / page).write_text(fitted(text, posixpath.dirname(path), repository), encoding="utf-8")


def fitted(text: str, folder: str, repository: str = "") -> str:
    """Return the text of a page of a folder with links that fit the site."""

    def link(match: re.Match[str]) -> str:
        whole, picture, words, target = match[0], match["picture"], match["text"], match["target"]
        anchor = match["anchor"] or ""
        path = posixpath.normpath(posixpath.join(folder, target))
        if re.match(r"[a-z]+:", target) or not (ROOT / path).exists():
            return whole
        if path in BROUGHT or posixpath.dirname(path) == "docs":
            page = BROUGHT.get(path, posixpath.basename(path)).replace(".ipynb", ".md")
            return f"{picture}[{words}]({page}{anchor})"
        if repository:
            return f"{picture}[{words}]({repository}/blob/main/{path}{anchor})"
        return f"`{path}`" if words.strip("`") in (path, posixpath.basename(path)) else f"{words} (`{path}`)"

    parts = _FENCE.split(text)
    parts[::2] = [_LINK.sub(link, part) for part in parts[::2]]
    return "".join(parts)


def main() -> int:
    """Build or show the site; return the exit code."""
    prepare()
    task = ["serve"] if "--serve" in sys.argv else ["build", "--clean", "--strict"]
    return subprocess.run([sys.executable, "-m", "zensical", *task], cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
