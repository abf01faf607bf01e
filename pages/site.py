"""What the site needs beside docs/: README and CONTRIBUTING as pages, and links to files that are no pages.

MkDocs calls these functions (`hooks` in mkdocs.yml). A link out of docs/ to a file of the repository becomes a link into
`repo_url` if mkdocs.yml has one, else the file's path; a link to nothing is left for the strict build to refuse.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parent.parent
BROUGHT = {"index.md": "README.md", "contributing.md": "CONTRIBUTING.md"}
"""Pages that lie beside docs/."""
_LINK = re.compile(r"(?<!!)\[(?P<text>[^\]]*)\]\((?P<target>[^)#\s]+)(?P<anchor>#[^)\s]*)?\)")
_FENCE = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)


def on_files(files: Any, config: Any) -> Any:
    """Add README and CONTRIBUTING to the pages."""
    for page, source in BROUGHT.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        # Their links and pictures start at the root, those of other pages in docs/.
        text = re.sub(r"\]\((?!https?:|#)", "](../", text)
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Turn the links of a page to pages of the site, or away from it."""

    def turned(match: re.Match[str]) -> str:
        return link(match["text"], match["target"], match["anchor"] or "", config["repo_url"] or "")

    parts = _FENCE.split(markdown)
    parts[::2] = [_LINK.sub(turned, part).replace("](../docs/", "](") for part in parts[::2]]
    return "".join(parts)


def link(text: str, target: str, anchor: str, repository: str) -> str:
    """Return a link as the site has it: to a page, into the repository, or the bare path."""
    if re.match(r"[a-z]+:", target):
        return f"[{text}]({target}{anchor})"
    path = posixpath.normpath(posixpath.join("docs", target))
    pages = {source: page for page, source in BROUGHT.items()}
    if path in pages:
        return f"[{text}]({pages[path]}{anchor})"
    if path.startswith("docs/") or not (ROOT / path).exists():
        return f"[{text}]({path.removeprefix('docs/')}{anchor})"
    if repository:
        return f"[{text}]({repository}/blob/main/{path}{anchor})"
    return f"{text} (`{path}`)" if text.strip("`") not in (path, posixpath.basename(path)) else f"`{path}`"
