"""Compiles every `.pyx` of the package and the protocol descriptions; metadata is in pyproject.toml."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
DEBUG = os.environ.get("TRITON_ASYNC_DEBUG") == "1"
PROTOS = [
    "model_config.proto",
    "grpc_service.proto",
    "health.proto",
    "reflection_v1.proto",
    "reflection_v1alpha.proto",
]

# The C sources, one static library that every extension module links what it needs of; everything else in csrc is
# headers. Which modules call which of them: those are linked again when one changes.
C_SOURCES = ["arena", "cuda", "gather", "slab", "wakeup"]
C_USES = {
    "triton_async.backends.base": ["gather", "slab", "arena"],
    "triton_async.backends.identity": ["gather", "slab", "arena"],
    "triton_async.backends.onnxruntime.instance": ["gather", "slab", "arena"],
    "triton_async.backends.onnxruntime.values": ["gather", "slab", "arena"],
    "triton_async.core.completion": ["wakeup"],
    "triton_async.core.instances": ["wakeup", "gather", "slab", "arena"],
    "triton_async.infer.batch": ["gather", "slab", "arena"],
    "triton_async.infer.signature": ["gather", "slab", "arena"],
    "triton_async.memory.arena": ["arena"],
    "triton_async.memory.cuda": ["cuda"],
    "triton_async.memory.device": ["arena"],
    "triton_async.memory.slab": ["slab", "arena"],
}

# The library of modules that call into it, from libnghttp2-dev; others only share its declarations.
LIBRARIES = {"triton_async.protocol.http2": ["nghttp2"]}

DIRECTIVES = {
    "language_level": 3,
    "binding": True,
    "boundscheck": True,
    "wraparound": False,
    "cdivision": True,
    "initializedcheck": False,
    "embedsignature": True,
}


class Build(build_ext):
    """Adds the protocol descriptor set, which the package reads at run time, to the built extensions."""

    def run(self) -> None:
        self.run_command("build_clib")  # in-place builds do not come by it
        super().run()
        base = ROOT if self.inplace else Path(self.build_lib)
        target = base / "triton_async" / "protos" / "inference.desc"
        target.parent.mkdir(parents=True, exist_ok=True)
        command = [
            sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT / 'protos'}", "--include_imports",
            f"--descriptor_set_out={target}", *PROTOS,
        ]  # fmt: skip
        subprocess.run(command, check=True)


FLAGS = ["-O1", "-g", "-UNDEBUG", "-DTA_DEBUG"] if DEBUG else ["-O3", "-g0", "-fno-strict-aliasing"]
COMPILE = ["-Wall", "-Wno-unused-function", "-fvisibility=hidden", *FLAGS]
HEADERS = [f"csrc/{path.name}" for path in sorted((ROOT / "csrc").glob("*.h"))]


def extensions() -> list[Extension]:
    found = []
    for path in sorted((ROOT / "triton_async").rglob("*.pyx")):
        relative = path.relative_to(ROOT)
        name = ".".join(relative.with_suffix("").parts)
        found.append(
            Extension(
                name,
                [str(relative)],
                include_dirs=["csrc"],
                depends=[*HEADERS, *(f"csrc/{used}.c" for used in C_USES.get(name, []))],
                libraries=LIBRARIES.get(name, []),
                extra_compile_args=COMPILE,
                extra_link_args=["-pthread"],
            )
        )
    return found


C_LIBRARY = (
    "triton_async_c",
    {
        "sources": [f"csrc/{source}.c" for source in C_SOURCES],
        "include_dirs": ["csrc"],
        "cflags": COMPILE,
        "obj_deps": {"": HEADERS},
    },
)

setup(
    ext_modules=cythonize(extensions(), compiler_directives=DIRECTIVES, build_dir=None, nthreads=2),
    libraries=[C_LIBRARY],
    cmdclass={"build_ext": Build},
    # A folder of its own, so that neither build takes the other's objects for its own.
    options={"build": {"build_base": "build/debug"}} if DEBUG else {},
)
