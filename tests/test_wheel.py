"""The wheel: built from what git tracks, it holds every file that the packages read, and works in an empty folder."""

import email
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("codesign", "isa_model", "kernels", "proposals")

pytestmark = pytest.mark.skipif(
    not (ROOT / ".git").exists() or not shutil.which("git"), reason="needs a clone, whose files git tracks"
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Build the wheel from a copy of the tracked files; `.ci/floors` installs it with the lowest dependencies."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in tracked("pyproject.toml", "setup.py", "README.md", "LICENSE", *PACKAGES):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    build = "from setuptools.build_meta import build_wheel; import sys; build_wheel(sys.argv[1])"
    command = [sys.executable, "-c", build, str(out)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (built,) = out.glob("*.whl")
    return built


def tracked(*paths):
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *paths]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return [name for name in found if (ROOT / name).exists()]


def test_the_wheel_holds_every_file_of_the_packages_and_nothing_else(wheel):
    """A data file that package-data in pyproject.toml leaves out is named here."""
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    wanted = {f"codesign/{name}" if name.startswith("proposals/") else name for name in tracked(*PACKAGES)}
    assert wanted - names == set()
    assert names - wanted == set()


def test_its_metadata_are_complete(wheel):
    """Name, version, licence, README as Markdown, the command, and the extras that messages name."""
    with zipfile.ZipFile(wheel) as file:
        read = {name.split("/", 1)[1]: file.read(name).decode() for name in file.namelist() if ".dist-info/" in name}
    about = email.message_from_string(read["METADATA"])
    from isa_model import __version__

    assert (about["Name"], about["Version"], about["Description-Content-Type"]) == (
        "codesign",
        __version__,
        "text/markdown",
    )
    assert about["License"] or about["License-Expression"]
    assert any(name.endswith("LICENSE") for name in read)
    assert about.get_payload().strip() == (ROOT / "README.md").read_text().strip()
    assert "codesign = codesign.__main__:main" in read["entry_points.txt"]
    assert {"kernels", "cost", "data"} <= set(about.get_all("Provides-Extra"))


def test_it_works_in_an_empty_folder(wheel, tmp_path):
    """From the wheel alone, shipped proposals are found by name, and a script loads, checks and multiplies with one."""
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    (tmp_path / "empty").mkdir()
    script = (
        "import codesign, isa_model, kernels, sys\n"
        "assert all(m.__file__.startswith(sys.argv[1]) for m in (codesign, isa_model, kernels))\n"
        "assert codesign.validate('group-scaled-mma') == ()\n"
        "import numpy as np; one = np.full((32, 32), 0x38, np.uint8)\n"
        "print(codesign.matmul('higher-precision-accumulation', one, one)[0, 0])\n"
        "from codesign.report.write import environment; environment(html=True).get_template('report.html.j2')\n"
        "from codesign.__main__ import run\n"
        "sys.exit(run(['list', 'proposals']))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    command = [sys.executable, "-c", script, str(tmp_path / "site")]
    done = subprocess.run(command, cwd=tmp_path / "empty", env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0] == "32.0"
    assert [line.split()[0] for line in done.stdout.splitlines()[1:]] == [
        p.stem for p in sorted((ROOT / "proposals").glob("*.yaml"))
    ]
