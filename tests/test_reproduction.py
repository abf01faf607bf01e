"""The table of reproduced numbers is what its script computes today, and nothing in it disagrees silently."""

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_reproduction_table_is_current_and_agrees():
    """docs/reproduction.md is what pages/reproduction.py computes, and no figure disagrees with its report."""
    spec = importlib.util.spec_from_file_location("reproduction", ROOT / "pages" / "reproduction.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    page = script.page()
    assert "**no**" not in page
    assert page == (ROOT / "docs" / "reproduction.md").read_text()
