"""Programs in C and C++ with the server in them, in processes without Python, with and without sanitizers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from triton_async import native

ROOT = Path(__file__).resolve().parents[3]
DRIVERS = ROOT / "tests" / "csrc"
C_API = ROOT / "csrc" / "tritonserver"
pytestmark = pytest.mark.skipif(
    shutil.which("gcc") is None or not sysconfig.get_config_var("Py_ENABLE_SHARED"),
    reason="no compiler, or a Python without a shared library",
)
WARNINGS = ("-Wall", "-Wextra", "-Werror", "-O1", "-g")
# Python and its libraries are no part of what is looked at; gcc's thread sanitizer sees their locks, not their atomics.
SANITIZERS = {
    "": (),
    "address": ("-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
    "thread": ("-fsanitize=thread",),
}
OPTIONS = {
    "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1",
    "UBSAN_OPTIONS": "print_stacktrace=1",
    "TSAN_OPTIONS": "halt_on_error=1:ignore_noninstrumented_modules=1:report_signal_unsafe=0",
}


def mirrored(folder: Path, sanitizer: str) -> Path:
    """The package with a library of its own, under a sanitizer: links to all else. Its library, for programs whose
    Python finds `folder` before an installed package."""
    package = folder / "triton_async"
    package.mkdir()
    for entry in native.LIBRARY.parents[1].iterdir():
        if entry.name not in ("lib", "__pycache__"):
            (package / entry.name).symlink_to(entry)
    (package / "lib").mkdir()
    library = package / "lib" / native.LIBRARY.name
    libpython = Path(sysconfig.get_config_var("LIBDIR")) / sysconfig.get_config_var("INSTSONAME")
    subprocess.run(
        ["gcc", "-std=gnu11", *WARNINGS, *SANITIZERS[sanitizer], "-fPIC", "-shared", "-fvisibility=hidden", "-pthread",
         f"-I{C_API}", f"-I{ROOT / 'csrc'}", f'-DTA_LIBPYTHON="{libpython}"', f'-DTA_PYTHON="{sys.executable}"',
         *map(str, sorted(C_API.glob("*.c"))), "-ldl", "-Wl,-soname,libtritonserver.so", "-o", str(library)],
        check=True,
    )  # fmt: skip
    return library


def first(folder: Path, sanitizer: str) -> dict[str, str]:
    return {"PYTHONPATH": str(folder)} if sanitizer else {}


def built(source: str, folder: Path, library: Path, sanitizer: str = "") -> Path:
    program = folder / Path(source).stem
    compiler = ("gcc", "-std=gnu11") if source.endswith(".c") else ("g++", "-std=c++17")
    subprocess.run(
        [*compiler, *WARNINGS, *SANITIZERS[sanitizer], f"-I{native.INCLUDE}", str(DRIVERS / source),
         str(library), f"-Wl,-rpath,{library.parent}", "-pthread", "-o", str(program)], check=True,
    )  # fmt: skip
    return program


def run(program: Path, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    # Nothing of this process's Python: the program finds its own.
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    for _ in range(50):
        done = subprocess.run(
            [program, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=300,
            env=clean | {"TRITON_ASYNC_PYTHON": sys.executable} | OPTIONS | environment,
        )  # fmt: skip
        # gcc 12's thread sanitizer cannot start at every place where newer kernels may put a program.
        if "unexpected memory mapping" not in done.stderr:
            break
    return done


@pytest.mark.parametrize("sanitizer", ["", "address"])
def test_a_c_program_has_all_of_the_server(sanitizer: str, repository: Path, tmp_path: Path) -> None:
    library = mirrored(tmp_path, sanitizer) if sanitizer else native.LIBRARY
    more = tmp_path / "more"
    more.mkdir()
    program = built("embedding_program.c", tmp_path, library, sanitizer)
    done = run(program, repository, more, **first(tmp_path, sanitizer))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("sanitizer", ["", "address", "thread"])
def test_threads_of_a_cpp_program_share_a_server(sanitizer: str, repository: Path, tmp_path: Path) -> None:
    library = mirrored(tmp_path, sanitizer) if sanitizer else native.LIBRARY
    program = built("embedding_threads.cc", tmp_path, library, sanitizer)
    done = run(program, repository, 4, 8, 100, **first(tmp_path, sanitizer))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("3200 inferences")


def test_a_program_without_python_hears_what_is_missing(repository: Path, tmp_path: Path) -> None:
    program = built("embedding_threads.cc", tmp_path, native.LIBRARY)
    done = run(program, repository, 1, 1, 1, TRITON_ASYNC_LIBPYTHON="/not/there.so")
    assert done.returncode == 1 and "Python can not be loaded: /not/there.so" in done.stderr
    done = run(program, repository, 1, 1, 1, TRITON_ASYNC_PYTHON="/not/there")
    assert done.returncode == 1 and "TRITON_ASYNC_PYTHON: '/not/there' can not be run" in done.stderr


def test_a_python_process_may_call_it_too(repository: Path) -> None:
    program = (
        "import ctypes, sys\n"
        f"library = ctypes.{{kind}}({str(native.LIBRARY)!r}, mode=ctypes.RTLD_GLOBAL)\n"
        "options, server = ctypes.c_void_p(), ctypes.c_void_p()\n"
        "for name in ('ServerOptionsNew', 'ServerNew', 'ServerOptionsSetModelRepositoryPath', 'ServerDelete',\n"
        "             'ServerOptionsSetModelControlMode'):\n"
        "    getattr(library, f'TRITONSERVER_{{name}}').restype = ctypes.c_void_p\n"
        "for _ in range(2):\n"
        "    assert not library.TRITONSERVER_ServerOptionsNew(ctypes.byref(options))\n"
        f"    place = {str(repository).encode()!r}\n"
        "    assert not library.TRITONSERVER_ServerOptionsSetModelRepositoryPath(options, place)\n"
        "    assert not library.TRITONSERVER_ServerOptionsSetModelControlMode(options, 2)\n"
        "    assert not library.TRITONSERVER_ServerNew(ctypes.byref(server), options)\n"
        "    assert not library.TRITONSERVER_ServerDelete(server)\n"
        "print('done')\n"
    )
    # PyDLL keeps the GIL while it calls: the server's thread gets it all the same.
    for kind in ("CDLL", "PyDLL"):
        done = subprocess.run(
            [sys.executable, "-c", program.replace("{kind}", kind).replace("{{", "{").replace("}}", "}")],
            capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")
