"""Environments of Python models: archives that are hostile or whole, directories, requirements."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from triton_async.backends.python.isolated import archive, environments
from triton_async.backends.python.isolated.archive import unpack
from triton_async.backends.python.isolated.environments import MACRO, Environments
from triton_async.backends.python.isolated.workers import Workers
from triton_async.backends.python.isolated.zygote import worker_environment
from triton_async.errors import InvalidArg, ServerError


def entry(name: str, kind: bytes = tarfile.REGTYPE, target: str = "", content: bytes = b"", mode: int = 0o644):
    found = tarfile.TarInfo(name)
    found.type, found.linkname, found.size, found.mode = kind, target, len(content), mode
    return found, content


def archive_of(tmp_path: Path, *entries: tuple[tarfile.TarInfo, bytes], mode: str = "w:gz") -> Path:
    path = tmp_path / "env.tar.gz"
    with tarfile.open(path, mode) as tar:
        for found, content in entries:
            tar.addfile(found, io.BytesIO(content))
    return path


def unpacked(tmp_path: Path, *entries: tuple[tarfile.TarInfo, bytes]) -> Path:
    into = tmp_path / "into"
    into.mkdir()
    unpack(archive_of(tmp_path, *entries), into)
    return into


def test_an_archive_is_unpacked_as_it_is(tmp_path: Path) -> None:
    into = unpacked(
        tmp_path,
        entry("lib/a", content=b"a"), entry("bin/python3.11", content=b"#!", mode=0o4777),
        entry("bin/python", tarfile.SYMTYPE, "python3.11"), entry("lib/deep/up", tarfile.SYMTYPE, "../../lib/a"),
        entry("hard", tarfile.LNKTYPE, "lib/a"), entry("empty", tarfile.DIRTYPE), entry("./dotted", content=b"d"),
    )  # fmt: skip
    assert (into / "lib/a").read_bytes() == (into / "hard").read_bytes() == (into / "lib/deep/up").read_bytes() == b"a"
    assert os.readlink(into / "bin/python") == "python3.11"
    assert (into / "empty").is_dir() and (into / "dotted").read_bytes() == b"d"
    # Nothing is anybody else's, and nobody becomes anybody else by running it.
    assert (into / "bin/python").stat().st_mode & 0o7777 == 0o755


UP = tarfile.SYMTYPE


@pytest.mark.parametrize(("entries", "problem"), [
    ([entry("../out", content=b"x")], "leads out of the archive"),
    ([entry("/tmp/out", content=b"x")], "leads out of the archive"),
    ([entry("a/../../out", content=b"x")], "leads out of the archive"),
    ([entry("link", UP, "/etc")], "leads out of the archive"),
    ([entry("link", UP, "..")], "leads out of the archive"),
    ([entry("a/link", UP, "../../x")], "leads out of the archive"),
    ([entry("link", UP, "")], "leads out of the archive"),
    # Up to the top by one link, and up from there by another.
    ([entry("a/top", UP, ".."), entry("a/link", UP, "top/../x")], "leads out of the archive"),
    ([entry("a/top", UP, ".."), entry("a/top/link", UP, "../x")], "reached through a link"),
    ([entry("a", UP, "b"), entry("b", tarfile.DIRTYPE), entry("a/file", content=b"x")], "reached through a link"),
    ([entry("hard", tarfile.LNKTYPE, "../secret")], "leads out of the archive"),
    ([entry("hard", tarfile.LNKTYPE, "missing")], "no file before it"),
    ([entry("f", content=b"x"), entry("s", UP, "f"), entry("hard", tarfile.LNKTYPE, "s")], "no file before it"),
    ([entry("f", content=b"x"), entry("f/g", content=b"x")], "a directory and something else"),
    ([entry("pipe", tarfile.FIFOTYPE)], "neither a file nor a directory nor a link"),
    ([entry("null", tarfile.CHRTYPE)], "neither a file nor a directory nor a link"),
])  # fmt: skip
def test_what_leads_out_of_an_archive_is_refused(
    tmp_path: Path, entries: list[tuple[tarfile.TarInfo, bytes]], problem: str
) -> None:
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(InvalidArg, match=problem):
        unpacked(tmp_path, *entries)
    assert sorted(os.listdir(tmp_path)) == sorted([*before, "env.tar.gz", "into"])


def test_an_archive_has_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = archive_of(tmp_path, entry("a", content=b"x" * 8), entry("b", content=b"x" * 8))
    monkeypatch.setattr(archive, "ARCHIVE_MAX_NBYTES", 16)
    monkeypatch.setattr(archive, "ARCHIVE_MAX_ENTRIES", 2)
    (tmp_path / "whole").mkdir()
    unpack(path, tmp_path / "whole")
    for name, limit, problem in (("ARCHIVE_MAX_NBYTES", 15, "more than 15 bytes"),
                                 ("ARCHIVE_MAX_ENTRIES", 1, "more than 1 entries")):  # fmt: skip
        with monkeypatch.context() as patch:
            patch.setattr(archive, name, limit)
            (tmp_path / name).mkdir()
            with pytest.raises(InvalidArg, match=problem):
                unpack(path, tmp_path / name)


def test_a_header_has_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = archive_of(tmp_path, entry("n" * 1000, content=b"x"))
    monkeypatch.setattr(archive, "ARCHIVE_HEADER_NBYTES", 512)
    (tmp_path / "into").mkdir()
    with pytest.raises(InvalidArg, match="a header of"):
        unpack(path, tmp_path / "into")


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    whole = archive_of(tmp_path, entry("a", content=os.urandom(100_000))).read_bytes()
    (tmp_path / "into").mkdir()
    for content in (b"", b"nothing", whole[:50_000], b"\x1f\x8b" + b"\0" * 100):
        path = tmp_path / "broken.tar.gz"
        path.write_bytes(content)
        with pytest.raises(InvalidArg, match="no whole tar archive"):
            unpack(path, tmp_path / "into")


# -- interpreters that are no good ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("script", "text"), [
    (None, "it has no NumPy, which every Python model needs: install it there, in an archive before it is packed"),
    ("exit 3", "its interpreter exited with status 3 while it started; it must be CPython 3.8 or newer, made for this"),
])  # fmt: skip
def test_what_an_environment_lacks_is_told(venv: Path, script: str | None, text: str) -> None:
    python = venv / "bin" / "python"
    if script is not None:
        python.unlink()
        python.write_text(f"#!/bin/sh\n{script}\n")
        python.chmod(0o755)
    zygote = Workers().zygote(str(python), venv)
    with pytest.raises(InvalidArg) as caught:
        zygote.start()
    assert caught.value.message.startswith(f"the Python environment of EXECUTION_ENV_PATH can not run models: {text}")


# -- EXECUTION_ENV_PATH --------------------------------------------------------------------------------------------


def test_a_conda_environment_is_activated(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    home = tmp_path / "conda env"
    scripts = home / "etc" / "conda" / "activate.d"
    scripts.mkdir(parents=True)
    (scripts / "b.sh").write_text("export LATER=$FIRST-b MULTI='two\nlines'; unset GONE; echo something said")
    (scripts / "a.sh").write_text("export FIRST=$CONDA_PREFIX/share; NOT_EXPORTED=1")
    (scripts / "c.fish").write_text("exit 1")
    own = {"PATH": os.environ["PATH"], "GONE": "1", "KEPT": "a=b", "PYTHONHOME": "/x", "LD_LIBRARY_PATH": "/own"}
    plain = worker_environment(own, home)
    assert "FIRST" not in plain, "it is no conda environment yet"
    assert plain["LD_LIBRARY_PATH"] == "/own"
    (home / "conda-meta").mkdir()
    assert worker_environment(own, home) == {
        "PATH": f"{home}/bin:{os.environ['PATH']}", "KEPT": "a=b", "CONDA_PREFIX": str(home),
        "FIRST": f"{home}/share", "LATER": f"{home}/share-b", "MULTI": "two\nlines",
        "LD_LIBRARY_PATH": f"{home}/lib:/own",
    }  # fmt: skip
    (scripts / "b.sh").write_text("exit 3")
    caplog.clear()
    assert worker_environment(own, home) == {**plain, "LD_LIBRARY_PATH": f"{home}/lib:/own"}
    assert "etc/conda/activate.d could not be run" in caplog.text


@pytest.fixture
def venv(tmp_path: Path) -> Path:
    path = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(path)], check=True, timeout=60)
    return path


@pytest.fixture
def found(tmp_path: Path) -> Environments:
    return Environments(str(tmp_path / "cache"))


def test_a_directory_is_used_where_it_is(venv: Path, found: Environments, tmp_path: Path) -> None:
    environment = found.find(str(venv), tmp_path, "m")
    assert environment.home == venv and environment.interpreter == str(venv / "bin" / "python")
    assert found.find(f"{MACRO}/venv", tmp_path, "m") == environment
    assert not (tmp_path / "cache").exists()


def test_an_archive_is_unpacked_once(venv: Path, found: Environments, tmp_path: Path) -> None:
    path = tmp_path / "env.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        tar.add(venv, ".", filter=lambda entry: None if os.path.isabs(entry.linkname) else entry)
        link = tarfile.TarInfo("bin/python")
        link.mode = 0o755
        content = b"#!/bin/sh\n"
        link.size = len(content)
        tar.addfile(link, io.BytesIO(content))
    first = found.find(str(path), tmp_path, "m")
    assert first.home is not None and first.home.parent == tmp_path / "cache"
    marked = first.home / "mark"
    marked.touch()
    assert found.find(str(path), tmp_path, "m") == first and marked.exists()
    os.utime(path, ns=(1, 1))  # another archive at this place
    assert found.find(str(path), tmp_path, "m") != first


def test_an_archive_without_an_interpreter_leaves_nothing(found: Environments, tmp_path: Path) -> None:
    path = archive_of(tmp_path, entry("lib/a", content=b"x"))
    with pytest.raises(InvalidArg, match="EXECUTION_ENV_PATH of model 'm' is no Python environment"):
        found.find(str(path), tmp_path, "m")
    assert [name for name in os.listdir(tmp_path / "cache") if not name.endswith(".lock")] == []


def wheel(directory: Path, name: str) -> None:
    """A wheel of a module `name` with the number 42 in it."""
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(directory / f"{name}-1.0-py3-none-any.whl", "w") as file:
        file.writestr(f"{name}.py", "ANSWER = 42\n")
        file.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", "")


def test_requirements_become_an_environment_once(
    found: Environments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("numpy", "thing"):
        wheel(tmp_path, name)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("thing==1.0\n")
    environment = found.find(f"{MACRO}/requirements.txt", tmp_path, "m")
    asked = subprocess.run(
        [environment.interpreter, "-c", "import thing; print(thing.ANSWER)"], capture_output=True, timeout=60,
        check=True,
    )  # fmt: skip
    assert asked.stdout == b"42\n"
    monkeypatch.setattr(environments, "_run", None)  # is not called again
    assert found.find(str(requirements), tmp_path, "m") == environment


def test_what_pip_says_last_is_told(found: Environments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("there-is-no-such-thing\n")
    with pytest.raises(InvalidArg, match=r"pip could not install the requirements: .*there-is-no-such-thing"):
        found.find(str(requirements), tmp_path, "m")
    assert [name for name in os.listdir(tmp_path / "cache") if not name.endswith(".lock")] == []


def nothing(path: Path) -> None:
    pass


@pytest.mark.parametrize(("value", "make", "problem"), [
    ("env", nothing, "must be an absolute path, or begin with"),
    ("{}/missing", nothing, "does not exist"),
    ("{}/file.zip", lambda path: (path / "file.zip").touch(), "neither a directory, nor an archive"),
    ("{}/empty", lambda path: (path / "empty").mkdir(), "no Python environment: it has no interpreter"),
    (MACRO + "/../other", nothing, "must be a relative path that stays within its directory"),
    ("/x/" + MACRO, nothing, "elsewhere than at its beginning"),
    (MACRO + "/link", lambda path: (path / "link").symlink_to("/etc"), "no Python environment: it has no interpreter"),
])  # fmt: skip
def test_wrong_forms_are_refused_by_name(
    found: Environments, tmp_path: Path, value: str, make: Callable[[Path], None], problem: str
) -> None:
    make(tmp_path)
    with pytest.raises(ServerError, match=problem) as raised:
        found.find(value.format(tmp_path), tmp_path, "m")
    assert "model 'm'" in raised.value.message
