"""The user's cache: files are kept privately, used only if undamaged, and built again otherwise."""

import os
import shutil
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module

import numpy as np
import pytest

from isa_model import load, matmul
from isa_model import user_cache as cache
from isa_model.engines import c_library, cpu

SPEC = load("hopper.wgmma.m64n8k16.f16.f16.f16")
A, B = np.full((2, 16), 0x3C00, np.uint16), np.full((16, 2), 0x3C00, np.uint16)
posix = pytest.mark.skipif(not hasattr(os, "getuid"), reason="owners and modes are those of POSIX")
needs_compiler = pytest.mark.skipif(not any(map(shutil.which, ("cc", "gcc", "clang"))), reason="no C compiler")


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Provide an empty cache, and an engine that compiles products of any size, as a new process would."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(import_module("isa_model.matmul"), "WORTH_COMPILING", 0)
    monkeypatch.setattr(cpu, "FLAGS", tuple(flag.replace("-O3", "-O0") for flag in cpu.FLAGS))
    monkeypatch.setattr(c_library, "_broken", {})
    cpu._load.cache_clear()
    yield tmp_path / "cache"
    cpu._load.cache_clear()


def compiled():
    """Return whether the engine, compiled or loaded as in a new process, sums sixteen ones."""
    cpu._load.cache_clear()
    return cpu.matmul(SPEC, A, B, np.zeros((2, 2), np.uint16)).view(np.float16).tolist() == [[16, 16]] * 2


def libraries(home):
    return sorted((home / "codesign").glob("*.so"))


def keep(content=b"content", name="a" * 32):
    return cache.keep(name, ".bin", content)


@posix
@needs_compiler
def test_a_library_is_built_once_and_kept_for_the_user_alone(home, monkeypatch):
    """The folder has mode 0700 whatever the umask, the second process compiles nothing, and no other file remains."""
    before = os.umask(0)
    try:
        assert compiled()
    finally:
        os.umask(before)
    (library,) = libraries(home)
    assert stat.S_IMODE((home / "codesign").stat().st_mode) == 0o700
    assert list((home / "codesign").iterdir()) == [library]
    monkeypatch.setattr(c_library, "_compile", None)
    assert compiled()


@posix
@needs_compiler
@pytest.mark.parametrize("damage", ["empty", "truncated", "changed", "text", "folder", "link", "writable by others"])
def test_a_broken_or_foreign_library_is_built_again(home, damage):
    """A library that was changed since it was kept is not loaded: the process goes on, and its bits are right."""
    assert compiled()
    (library,) = libraries(home)
    whole = library.read_bytes()
    if damage == "writable by others":
        library.chmod(0o777)
    elif damage in ("folder", "link"):
        library.unlink()
        library.mkdir() if damage == "folder" else library.symlink_to(sys.executable)
    else:
        changed = bytearray(whole)
        changed[len(whole) // 2] ^= 1
        content = {"empty": b"", "truncated": whole[:5000], "changed": bytes(changed), "text": b"hello"}[damage]
        library.unlink()
        library.write_bytes(content)
    assert compiled()
    if damage != "folder":
        assert any(path.is_file() and not path.is_symlink() and path.read_bytes() == whole for path in libraries(home))


@posix
def test_what_others_can_write_is_no_cache(home, monkeypatch):
    """A world-writable parent, a link and a relative path are not used; one with the sticky bit is, as /tmp."""
    home.mkdir()
    assert cache.folder() == home / "codesign"
    for mode, used in ((0o777, False), (0o1777, True), (0o757, False), (0o755, True)):
        home.chmod(mode)
        assert (cache.folder() is not None) == used, oct(mode)
        assert (keep() is not None) == used
        assert (cache.read("a" * 32, ".bin") is not None) == used
    (home / "codesign").rename(home / "elsewhere")
    (home / "codesign").symlink_to(home / "elsewhere")
    assert cache.folder() is None
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(home.parent / "home"))
    assert cache.folder() == home.parent / "home" / ".cache" / "codesign"


@posix
def test_a_folder_of_another_user_is_no_cache(home, monkeypatch):
    """A folder or file of another owner is neither read nor written; others' rights to the user's folder are removed."""
    (home / "codesign").mkdir(parents=True)
    (home / "codesign").chmod(0o777)
    assert keep() is not None
    assert stat.S_IMODE((home / "codesign").stat().st_mode) == 0o700
    uid = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: uid + 1)
    assert cache.folder() is None
    assert keep(b"other") is None


@posix
@needs_compiler
def test_a_planted_library_is_not_run(home):
    """A library of the right name in a cache that others can write is neither loaded nor replaced."""
    assert compiled()
    (library,) = libraries(home)
    planted = b"\x7fELF" + b"planted"
    library.unlink()
    library.write_bytes(planted)
    home.chmod(0o777)
    assert compiled()
    assert library.read_bytes() == planted


@needs_compiler
@pytest.mark.parametrize("fault", ["read-only", "full", "a file"])
def test_without_a_cache_libraries_are_temporary(home, monkeypatch, fault):
    """If nothing can be kept, the engine compiles in a private temporary folder, which is removed after loading."""
    home.mkdir()
    if fault == "a file":
        (home / "codesign").write_text("")
    elif fault == "full":

        def full(*arguments, **keywords):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(cache.os, "replace", full)
    else:
        monkeypatch.setattr(cache.Path, "mkdir", lambda *_, **__: (_ for _ in ()).throw(PermissionError("read-only")))
    temporary = home.parent / "temporary"
    os.mkdir(temporary)
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    assert compiled()
    assert list(temporary.iterdir()) == []
    assert not libraries(home)
    assert not list(home.rglob("*.part"))


def compiler(folder, body):
    """Return a C compiler that runs a script instead; `$out` is the file that it should write."""
    path = folder / "cc"
    path.write_text(f'#!/bin/sh\nwhile [ "$1" != -o ]; do shift; done; out=$2\n{body}\n')
    path.chmod(0o755)
    return str(path)


@posix
@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("exit 0", "wrote no library"),
        (": > $out", "wrote a library that cannot be loaded"),
        ("echo garbage > $out", "wrote a library that cannot be loaded"),
        ("echo no such option >&2; exit 3", "failed: no such option"),
        ("exit 3", "failed: exit code 3"),
        ("kill -SEGV $$", "failed"),
        ("sleep 600 & wait", "took more than 1 s"),
        ("sleep 600 | cat", "took more than 1 s"),
    ],
)
def test_a_compiler_that_does_not_work_is_said_and_numpy_computes(home, tmp_path, monkeypatch, body, says):
    """A compiler that hangs, fails or writes nothing costs one time limit per process; numpy computes, with a warning."""
    monkeypatch.setenv("CC", compiler(tmp_path, body))
    if "sleep" in body:
        monkeypatch.setattr(c_library, "TIME_LIMIT", 1)
    started = time.monotonic()
    with pytest.warns(RuntimeWarning, match=f"{says}.*numpy computes instead"):
        assert matmul(SPEC, A, B, engine="cpu").tolist() == [[16, 16]] * 2
    monkeypatch.setattr(c_library, "_compile", None)
    with pytest.warns(RuntimeWarning, match=says):
        assert matmul(SPEC, A, B).tolist() == [[16, 16]] * 2
    assert time.monotonic() - started < 30
    assert not libraries(home)


@posix
@needs_compiler
def test_a_truncated_library_of_the_compiler_ends_no_process(home, tmp_path, monkeypatch):
    """Half of a library, as on a full disk, is not loaded, which would cause SIGBUS."""
    cc = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))))
    text = '#!/bin/sh\nall="$@"\nwhile [ "$1" != -o ]; do shift; done\n'
    path = tmp_path / "cc"
    path.write_text(f"{text}{cc} $all && truncate -s 5000 $2\n")
    path.chmod(0o755)
    monkeypatch.setenv("CC", str(path))
    with pytest.warns(RuntimeWarning, match="cannot be loaded"):
        assert matmul(SPEC, A, B, engine="cpu").tolist() == [[16, 16]] * 2


@needs_compiler
def test_the_command_of_the_compiler_may_have_arguments(home, monkeypatch):
    """CC="cc -g" is a command with an option; a CC that does not exist is ignored."""
    cc = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))))
    monkeypatch.setenv("CC", f"{cc} -g")
    assert c_library.compiler() == [cc, "-g"]
    monkeypatch.setenv("CC", "no-such-compiler")
    assert c_library.compiler() == [cc]


def test_many_writers_keep_one_whole_file(home):
    """Threads that keep the same name at once all get a whole file, and no temporary part remains."""
    content = os.urandom(1 << 16)
    with ThreadPoolExecutor(8) as pool:
        paths = set(pool.map(lambda _: keep(content), range(32)))
    assert len(paths) == 1
    assert cache.read("a" * 32, ".bin").read_bytes() == content
    assert [path.name for path in (home / "codesign").iterdir()] == [next(iter(paths)).name]


def test_leftovers_of_killed_processes_are_removed(home):
    """Keeping a file removes parts older than a day; younger ones may belong to a process that still runs."""
    keep()
    old, young = home / "codesign" / "old.part", home / "codesign" / "young.part"
    for part in (old, young):
        part.write_text("half")
    os.utime(old, (time.time() - 2 * cache.DAY,) * 2)
    keep(b"more")
    assert [path.exists() for path in (old, young)] == [False, True]


@posix
@needs_compiler
def test_processes_compile_at_once(home):
    """Several processes with one empty cache all compute, and leave one library."""
    text = "import sys; sys.path[:0] = sys.argv[1:]; from test_cache import compiled; assert compiled()"
    command = [sys.executable, "-c", text, *filter(None, sys.path), os.path.dirname(__file__)]
    running = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(3)]
    for process in running:
        _, error = process.communicate(timeout=120)
        assert process.returncode == 0, error.decode()
    assert len(libraries(home)) == 1
