"""`codesign doctor`: what is installed, which engine would run, and which records are used."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Literal, NamedTuple

from codesign.commands.app import app
from codesign.commands.tabular import Form, emit, tabular
from codesign.commands.terminal import console, table

State = Literal["ok", "missing", "none", "fault"]
"""ok; an optional part that is missing; none here; or a fault that keeps something from working."""
_FOR = {
    "": "every command",
    "kernels": "`bench`, `train`, `evaluate --train`, `conform --live`",
    "cost": "`rtl`, and areas of designs without a record",
    "data": "`to_frame` and --parquet",
}
"""Commands that need the packages of an extra."""
_STYLES = {"ok": "green", "missing": "yellow", "none": "", "fault": "bold red"}
_PROBE = "hopper.mma.m16n8k16.f32.bf16.bf16.f32"
"""Instruction that is compiled to see whether the compiler works."""


class Finding(NamedTuple):
    """State of one part of the installation."""

    part: str
    name: str
    state: State
    about: str


@app.command()
@tabular
def doctor(form: Form = "table") -> int:
    """Show what is installed, which engine would run and why, and which records are used.

    One instruction is compiled to see whether the compiler works. Exit code 3 if something is broken, or lacks that every
    command needs.
    """
    found = list(findings())
    if form != "table":
        emit(form, [finding._asdict() for finding in found])
    else:
        from rich.text import Text

        rows = ((part, name, Text(state, style=_STYLES[state]), about) for part, name, state, about in found)
        console().print(table("part |  | state | about", rows))
    return 3 if any(finding.state == "fault" for finding in found) else 0


def findings() -> Iterator[Finding]:
    """Yield the state of every part."""
    from codesign.commit import commit
    from isa_model import __version__

    home = Path(__file__).resolve().parent.parent
    made = f", commit {commit()}" if commit() else ""
    yield Finding("codesign", __version__, "ok", f"{home}{made}")
    yield Finding(
        "python", platform.python_version(), "ok", f"{sys.executable}, {platform.system()} {platform.machine()}"
    )
    yield from _packages()
    yield engine()
    yield _gpu()
    yield from _records()
    yield _cache()


def _packages() -> Iterator[Finding]:
    """Yield the packages that codesign needs, and those of its extras for users."""
    try:
        required = metadata.requires("codesign") or []
    except metadata.PackageNotFoundError:
        yield Finding("package", "codesign", "none", "not installed: it runs from its source")
        return
    for line in required:
        match = re.match(r'([A-Za-z0-9_.-]+)(?:.*extra == "([a-z]+)")?', line)
        name, extra = (match[1], match[2] or "") if match else ("", "-")
        if extra not in _FOR or (extra and name in ("numpy",)):
            continue
        try:
            yield Finding("package", f"{name} {metadata.version(name)}", "ok", f"for {_FOR[extra]}")
        except metadata.PackageNotFoundError:
            install = f"'codesign[{extra}]'" if extra else "codesign"
            state: State = "missing" if extra else "fault"
            yield Finding("package", name, state, f"for {_FOR[extra]}: pip install {install}")


def engine() -> Finding:
    """Return the engine that multiplies where no GPU is asked for, after compiling and loading one instruction."""
    from isa_model.engines import c_library, cpu
    from isa_model.library import load

    try:
        cpu.prepared(load(_PROBE))
        compiler = c_library.compiler()
    except cpu.NoCompiler as reason:
        state: State = "missing" if not reason.broken else "fault"
        return Finding("engine", "numpy", state, f"{reason}; large products are slower without one")
    said = subprocess.run([*compiler, "--version"], capture_output=True, text=True, timeout=20, check=False).stdout
    version = said.splitlines()[0] if said else "of unknown version"
    return Finding("engine", "cpu", "ok", f"compiled C on {cpu.cores()} cores, by {' '.join(compiler)}: {version}")


def _gpu() -> Finding:
    """Return the GPU of this machine, by its driver; torch is not imported."""
    program = shutil.which("nvidia-smi")
    query = ["--query-gpu=name,compute_cap,driver_version", "--format=csv,noheader"]
    said = ""
    if program:
        done = subprocess.run([program, *query], capture_output=True, text=True, timeout=30, check=False)
        said = done.stdout.strip() if done.returncode == 0 else ""
    if not said:
        return Finding("gpu", "none", "none", "times come from records; `bench` and `conform --live` need a Hopper GPU")
    name, capability, driver = (part.strip() for part in said.splitlines()[0].split(","))
    about = f"compute capability {capability}, driver {driver}"
    if capability != "9.0":
        return Finding("gpu", name, "none", f"{about}; `bench` and `conform --live` need a Hopper GPU")
    return Finding("gpu", name, "ok", f"{about}; runs `bench` and `conform --live`")


def _records() -> Iterator[Finding]:
    """Yield the records that figures of times, areas and training come from."""
    from codesign.evidence.cost import records as cost
    from codesign.evidence.timing import machine_constants, measured
    from codesign.evidence.timing import records as fits
    from codesign.evidence.training import records as training

    try:
        bench = measured.bench()
        about = f"{bench.gpu}, {bench.date}, commit {bench.commit}"
        yield Finding("record", f"times: {bench.name}", "ok", about)
        fitted = bench.gpu in fits.shipped() and bench.gpu in machine_constants.shipped()
        state: State = "ok" if fitted else "fault"
        yield Finding(
            "record", "timing model", state, f"fitted to {bench.gpu}" if fitted else f"not fitted to {bench.gpu}"
        )
    except LookupError as reason:
        yield Finding("record", "times", "fault", str(reason))
    for library, count in Counter(record.library for record in cost.shipped()).items():
        commits = dict.fromkeys(r.commit for r in cost.shipped() if r.library == library)
        yield Finding("record", f"areas: {library}", "ok", f"{count} designs, commits {', '.join(commits)}")
    for name, record in training.shipped():
        about = f"{len(record.runs)} runs on {record.machine}, commit {record.commit}"
        yield Finding("record", f"training: {name}", "ok", about)


def _cache() -> Finding:
    """Return the folder that compiled engines and measured designs are kept in."""
    from isa_model import user_cache

    folder = user_cache.folder()
    if folder is None:
        return Finding(
            "cache",
            "none",
            "missing",
            "no private folder under $XDG_CACHE_HOME or ~/.cache: nothing is kept",
        )
    files = [entry for entry in os.scandir(folder) if entry.is_file(follow_symlinks=False)]
    size = sum(entry.stat(follow_symlinks=False).st_size for entry in files)
    return Finding(
        "cache", f"{len(files)} files", "ok", f"{folder}, {size / 2**20:.1f} MiB; may be removed at any time"
    )
