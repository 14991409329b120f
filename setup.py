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

# C sources linked into one extension module each; everything else in csrc is headers.
C_SOURCES = {
    "triton_async.backends.base": ["csrc/gather.c", "csrc/slab.c"],
    "triton_async.backends.identity": ["csrc/gather.c", "csrc/slab.c"],
    "triton_async.backends.onnxruntime.instance": ["csrc/gather.c", "csrc/slab.c"],
    "triton_async.backends.onnxruntime.values": ["csrc/gather.c", "csrc/slab.c"],
    "triton_async.backends.tensorrt.calls": ["csrc/cuda.c"],
    "triton_async.core.completion": ["csrc/wakeup.c"],
    "triton_async.core.instances": ["csrc/wakeup.c", "csrc/gather.c", "csrc/slab.c"],
    "triton_async.infer.batch": ["csrc/gather.c", "csrc/slab.c"],
    "triton_async.infer.signature": ["csrc/gather.c", "csrc/slab.c"],
    "triton_async.memory.cuda": ["csrc/cuda.c"],
    "triton_async.memory.slab": ["csrc/slab.c"],
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
        super().run()
        base = ROOT if self.inplace else Path(self.build_lib)
        target = base / "triton_async" / "protos" / "inference.desc"
        target.parent.mkdir(parents=True, exist_ok=True)
        command = [
            sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT / 'protos'}", "--include_imports",
            f"--descriptor_set_out={target}", *PROTOS,
        ]  # fmt: skip
        subprocess.run(command, check=True)


def extensions() -> list[Extension]:
    flags = ["-O1", "-g", "-UNDEBUG", "-DTA_DEBUG"] if DEBUG else ["-O3", "-g0", "-fno-strict-aliasing"]
    found = []
    for path in sorted((ROOT / "triton_async").rglob("*.pyx")):
        relative = path.relative_to(ROOT)
        name = ".".join(relative.with_suffix("").parts)
        sources = [str(relative), *C_SOURCES.get(name, [])]
        found.append(
            Extension(
                name,
                sources,
                include_dirs=["csrc"],
                depends=[str(p.relative_to(ROOT)) for p in sorted((ROOT / "csrc").glob("*.h"))],
                libraries=LIBRARIES.get(name, []),
                extra_compile_args=["-Wall", "-Wno-unused-function", "-fvisibility=hidden", *flags],
                extra_link_args=["-pthread"],
            )
        )
    return found


setup(
    ext_modules=cythonize(extensions(), compiler_directives=DIRECTIVES, build_dir=None, nthreads=2),
    cmdclass={"build_ext": Build},
    # A folder of its own, so that neither build takes the other's objects for its own.
    options={"build": {"build_base": "build/debug"}} if DEBUG else {},
)
