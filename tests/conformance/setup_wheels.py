"""Makes CPython 3.12 run NVIDIA's `tritonserver` and `tritonfrontend` wheels over this package, in a cache folder.

Nothing is installed: packages are put into a folder of the cache, and where the system's C library is older than these
wheels want (2.38, and libstdc++ of GCC 13), Debian 13's is unpacked beside and Python started by its loader.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import platform
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

from triton_async import native

WHEELS = ("tritonserver==2.73.0", "tritonfrontend==2.73.0")
# What the wheels are made for, and what they want besides themselves.
PLATFORM = f"manylinux_2_39_{platform.machine()}"
WANTED = ("numpy<2", "pydantic==2.10.6")
GLIBC = (2, 39)
DEBIAN = ("libc6", "libgcc-s1", "libstdc++6")
CACHE_ENV = "TRITON_ASYNC_WHEELS"
PYTHON_ENV = "TRITON_ASYNC_PYTHON312"
ROOT = Path(__file__).resolve().parents[2]
DEFAULT_CACHE = ROOT / ".cache" / "tritonserver-wheels"
# Raised when the layout below changes, so that an older cache is rebuilt.
LAYOUT = "1"


class Missing(Exception):
    """What cannot be had here, for whoever skips a test."""


@dataclasses.dataclass(frozen=True)
class WheelPython:
    """How to start CPython 3.12 with the wheels and this package."""

    command: tuple[str, ...]
    environment: dict[str, str]


@functools.cache
def prepare() -> WheelPython:
    """Built in the cache first when it is not there. Missing."""
    cache = Path(os.environ.get(CACHE_ENV) or DEFAULT_CACHE).resolve()
    target = cache / f"layout{LAYOUT}"
    python = _python()
    ours = _package(cache)
    if not target.is_dir():
        # Built beside and renamed, so that an interrupted set-up is never taken for a whole one.
        partial = target.with_name(f"{target.name}.partial-{os.getpid()}")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            _build(python, partial)
            partial.rename(target)
        except (OSError, subprocess.CalledProcessError) as error:
            raise Missing(f"what the wheels need can not be had: {error}") from None
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    libraries = [str(ours / "triton_async" / "lib")]
    loader: tuple[str, ...] = (str(python),)
    if (target / "debian").is_dir():
        folder = next((target / "debian").glob("usr/lib/*-linux-gnu"))
        begin = next(folder.glob("ld-linux-*.so.*"))
        libraries.insert(0, str(folder))
        loader = (str(begin), "--argv0", str(python), "--library-path", os.pathsep.join(libraries), str(python))
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    environment["PYTHONPATH"] = os.pathsep.join([str(target / "packages"), str(ours)])
    if len(libraries) == 1:
        environment["LD_LIBRARY_PATH"] = libraries[0]
    return WheelPython(loader, environment)


def _python() -> Path:
    """CPython 3.12."""
    named = os.environ.get(PYTHON_ENV)
    found = [named] if named else [sys.executable, shutil.which("python3.12") or ""]
    found += [str(path) for path in sorted(Path.home().glob(".pyenv/versions/3.12.*/bin/python3.12"), reverse=True)]
    for path in filter(None, found):
        asked = subprocess.run(
            [path, "-c", "import sys; print(sys.version_info[:2], sys.executable)"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if asked.stdout.startswith("(3, 12) "):
            return Path(asked.stdout.strip().partition(") ")[2]).resolve()
    raise Missing(f"there is no CPython 3.12, for which these wheels are: {PYTHON_ENV} may name one")


def _package(cache: Path) -> Path:
    """The folder that has this package for CPython 3.12 in it: this one, or a wheel's that `make dist` has made."""
    here = native.LIBRARY.parents[1]
    if any(here.glob("datatypes.cpython-312-*.so")):
        return here.parent
    built = "triton_async-*-cp312-*.whl"
    wheels = [*(ROOT / "dist").glob(built), *(ROOT / "build" / "wheels").glob(built)]
    if not wheels:
        raise Missing("this package is not built for CPython 3.12: make dist PYTHONS=python3.12")
    wheel = max(wheels, key=lambda path: path.stat().st_mtime)
    target = cache / f"ours-{wheel.stat().st_mtime_ns}"
    if not target.is_dir():
        partial = target.with_name(f"{target.name}.partial-{os.getpid()}")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(partial)
        partial.rename(target)
    return target


def _build(python: Path, target: Path) -> None:
    packages = target / "packages"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pip = [str(python), "-m", "pip", "install", "--quiet", "--only-binary=:all:", "--target", str(packages)]
    _run([*pip, *WANTED, *project["dependencies"]])
    # pip would not take them for this machine's C library.
    _run([*pip, "--no-deps", "--python-version=3.12", f"--platform={PLATFORM}", *WHEELS])
    name, version = platform.libc_ver()
    if name != "glibc" or tuple(map(int, version.split(".")[:2])) < GLIBC:
        _unpack_debian(target)


def _unpack_debian(target: Path) -> None:
    """Debian 13's C and C++ libraries, fetched as apt would, from where this system's packages come from."""
    apt = shutil.which("apt-get")
    if apt is None or shutil.which("dpkg-deb") is None:
        raise Missing("the C library is older than the wheels want, and there is no apt-get to fetch a newer one with")
    listed = _run([apt, "indextargets", "--format", "$(REPO_URI) $(CODENAME)", "Created-By: Packages"])
    places = [line.split()[0] for line in listed.splitlines() if line.endswith((" bookworm", " bullseye"))]
    if not places:
        raise Missing("the C library is older than the wheels want, and only Debian's newer one can be had")
    folder = target / "apt"
    for name in ("lists/partial", "cache/archives/partial", "debs"):
        (folder / name).mkdir(parents=True)
    key = "/usr/share/keyrings/debian-archive-keyring.gpg"
    signed = f"[signed-by={key}] " if os.path.exists(key) else ""
    (folder / "sources.list").write_text(f"deb {signed}{places[0]} trixie main\n")
    settings = {
        "Dir::State": folder, "Dir::State::status": "/dev/null", "Dir::State::lists": folder / "lists",
        "Dir::Cache": folder / "cache", "Dir::Etc::sourcelist": folder / "sources.list", "Dir::Etc::sourceparts": "-",
        "APT::Sandbox::User": "", "Acquire::Languages": "none",
    }  # fmt: skip
    (folder / "apt.conf").write_text("".join(f'{name} "{value}";\n' for name, value in settings.items()))
    environment = dict(os.environ, APT_CONFIG=str(folder / "apt.conf"))
    _run([apt, "-qq", "update"], env=environment)
    _run([apt, "-qq", "download", *DEBIAN], env=environment, cwd=folder / "debs")
    for package in (folder / "debs").iterdir():
        _run(["dpkg-deb", "-x", str(package), str(target / "debian")])
    shutil.rmtree(folder)


def _run(command: list[str], env: dict[str, str] | None = None, cwd: Path | None = None) -> str:
    done = subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Missing(f"'{command[0]} {command[1]} …' failed: {done.stderr.strip()[-500:]}")
    return done.stdout
