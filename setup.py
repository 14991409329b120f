"""Compiles every `.pyx` of the package and the protocol descriptions; metadata is in pyproject.toml."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import threading
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build import build
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
DEBUG = os.environ.get("TRITON_ASYNC_DEBUG") == "1"
PROTOS = [
    "model_config.proto",
    "grpc_service.proto",
    "health.proto",
    "onnx_graph.proto",
    "reflection_v1.proto",
    "reflection_v1alpha.proto",
]

# C sources that each extension module calls; it is linked again when one of them changes. All of them are one static
# library, of which every module takes what it needs. Everything else in csrc is headers.
C_SOURCES = {
    "triton_async.backends.base": ["csrc/gather.c", "csrc/slab.c", "csrc/later.c"],
    "triton_async.backends.capi.calls": ["csrc/gather.c", "csrc/slab.c", "csrc/later.c"],
    "triton_async.backends.capi.instance": ["csrc/gather.c", "csrc/slab.c", "csrc/later.c"],
    "triton_async.backends.device.captures": ["csrc/cuda.c"],
    "triton_async.backends.device.copies": ["csrc/gather.c", "csrc/slab.c", "csrc/later.c"],
    "triton_async.backends.device.instance": ["csrc/gather.c", "csrc/slab.c", "csrc/later.c", "csrc/cuda.c"],
    "triton_async.backends.fil.forest": ["csrc/forest.c", "csrc/forest_ranks.c"],
    "triton_async.backends.fil.instance": [
        "csrc/forest.c", "csrc/forest_ranks.c", "csrc/gather.c", "csrc/slab.c", "csrc/later.c",
    ],
    "triton_async.backends.identity": ["csrc/gather.c", "csrc/slab.c", "csrc/later.c"],
    "triton_async.backends.onnxruntime.device": ["csrc/cuda.c", "csrc/gather.c", "csrc/slab.c", "csrc/later.c"],
    "triton_async.backends.onnxruntime.instance": ["csrc/gather.c", "csrc/slab.c", "csrc/later.c"],
    "triton_async.backends.onnxruntime.values": ["csrc/gather.c", "csrc/slab.c", "csrc/later.c"],
    "triton_async.backends.python.isolated.outbound": ["csrc/arena.c"],
    "triton_async.backends.python.isolated.memory": ["csrc/arena.c"],
    "triton_async.backends.python.isolated.wire": ["csrc/arena.c", "csrc/gather.c", "csrc/slab.c", "csrc/later.c"],
    "triton_async.backends.tensorrt.calls": ["csrc/cuda.c"],
    "triton_async.core.answers_kept": ["csrc/gather.c", "csrc/slab.c", "csrc/later.c"],
    "triton_async.core.reactor": ["csrc/wakeup.c"],
    "triton_async.core.dataflow": ["csrc/gather.c", "csrc/slab.c", "csrc/later.c"],
    "triton_async.core.instances": ["csrc/wakeup.c", "csrc/gather.c", "csrc/slab.c", "csrc/later.c"],
    "triton_async.infer.assembly": ["csrc/assembly.c", "csrc/gather.c", "csrc/slab.c", "csrc/later.c"],
    "triton_async.infer.batch": ["csrc/assembly.c", "csrc/gather.c", "csrc/slab.c", "csrc/later.c"],
    "triton_async.infer.signature": ["csrc/gather.c", "csrc/slab.c", "csrc/later.c"],
    "triton_async.infer.transfer": ["csrc/gather.c", "csrc/slab.c", "csrc/later.c"],
    "triton_async.memory.arena": ["csrc/arena.c"],
    "triton_async.memory.cuda": ["csrc/cuda.c"],
    "triton_async.memory.device": ["csrc/arena.c"],
    "triton_async.memory.mapping": ["csrc/guard.c"],
    "triton_async.memory.slab": ["csrc/slab.c", "csrc/later.c"],
    "triton_async.protocol.json_cut": ["csrc/json.c", "csrc/json_values.c"],
    "triton_async.processes.lane": ["csrc/arena.c", "csrc/lane.c"],
    "triton_async.watchdog": ["csrc/watchdog.c"],
}

# What libtritonserver.so is made of, the C API: plain C, which no module links to and which knows no Python.
C_API = Path("csrc") / "tritonserver"
C_API_SOURCES = [
    "backend.c",
    "backend_batching.c",
    "backend_execution.c",
    "backend_objects.c",
    "backend_request.c",
    "backend_response.c",
    "backend_statistics.c",
    "cache.c",
    "inner_server.c",
    "interpreter.c",
    "log.c",
    "metrics.c",
    "options.c",
    "repository_agent.c",
    "request.c",
    "response.c",
    "server.c",
    "trace.c",
    "values.c",
]

# The Python that a program without one gets from libtritonserver.so, where nothing else is said.
LIBPYTHON = Path(sysconfig.get_config_var("LIBDIR") or "") / (sysconfig.get_config_var("INSTSONAME") or "")
C_API_MACROS = [
    ("TA_LIBPYTHON", f'"{LIBPYTHON}"' if sysconfig.get_config_var("Py_ENABLE_SHARED") else '""'),
    ("TA_PYTHON", f'"{sys.executable}"'),
]

# Libraries of modules that call into them. nghttp2 is from libnghttp2-dev; others only share its declarations.
LIBRARIES = {
    "triton_async.backends.fil.forest": ["m"],
    "triton_async.backends.fil.instance": ["m"],
    "triton_async.protocol.http2": ["nghttp2"],
}

# Plain Python that is compiled too: what each request of a Python model goes through. Interpreters that the compiled
# form is not for, those of other environments of models, run the sources.
ALSO_COMPILED = ["triton_async/backends/python/worker/" + name for name in (
    "calls.py", "context.py", "messages.py", "outgoing.py", "process.py", "runner.py", "tensors.py", "wire.py",
)]  # fmt: skip

DIRECTIVES = {
    "language_level": 3,
    "binding": True,
    "boundscheck": True,
    "wraparound": False,
    "cdivision": True,
    "initializedcheck": False,
    "embedsignature": True,
    # Nothing of ours is pickled, and the code for it is a quarter of the time that compiling takes.
    "auto_pickle": False,
    # The lines of the sources beside the C made of them are for who reads it.
    "emit_code_comments": DEBUG,
}


# What Cython would write into each module that needs it (memoryviews, its type of functions, errors of arguments), here
# once for all: a third of what there is to translate and to compile.
SHARED = "triton_async._cython"

# What the C of all modules includes, or of most: a tenth of the time that they take to compile.
INCLUDED = [
    "Python.h", "compile.h", "frameobject.h", "structmember.h", "traceback.h", "math.h", "pthread.h", "stdalign.h",
    "stddef.h", "stdint.h", "stdio.h", "stdlib.h", "string.h",
]  # fmt: skip

# What a fatbin of our kernels runs on: these, and through the PTX of the first one whatever comes after them. The
# kernels use nothing that is newer than that, so they are read once for all.
GPU_ARCHITECTURES = ("75", "80", "86", "89", "90", "100", "120")


# Memory that one compiler may take; more of them at once are not started.
COMPILER_NBYTES = 400 << 20

# What has to be there to compile, and the packages that it is in.
HEADERS_NEEDED = {
    "Python.h": "python3-dev (Debian, Ubuntu) or python3-devel (Fedora, RHEL)",
    "nghttp2/nghttp2.h": "libnghttp2-dev (Debian, Ubuntu) or libnghttp2-devel (Fedora, RHEL)",
}


def say(text: str) -> None:
    """A line of progress: also to the file TRITON_ASYNC_PROGRESS, for who sees nothing of a build by pip."""
    print(text, flush=True)
    if path := os.environ.get("TRITON_ASYNC_PROGRESS"):
        with contextlib.suppress(OSError), open(path, "a") as file:
            file.write(f"{text}\n")


def compiler_command() -> list[str]:
    return shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")


def takes(flags: list[str]) -> bool:
    """Whether the compiler knows them all."""
    command = [*compiler_command(), *flags, "-x", "c", "-c", os.devnull, "-o", os.devnull]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def check_tools() -> None:
    """Ends the build with one sentence for the first thing that is missing."""
    command = compiler_command()
    if shutil.which(command[-1] if command[0] == "ccache" else command[0]) is None:
        raise SystemExit(f"triton-async is compiled, and there is no C compiler '{command[0]}': install gcc, or set CC")
    flags = [*shlex.split(os.environ.get("CPPFLAGS", "")), *shlex.split(os.environ.get("CFLAGS", ""))]
    places = {sysconfig.get_path(name) for name in ("include", "platinclude")}
    for header, package in HEADERS_NEEDED.items():
        tried = subprocess.run(
            [*command, *flags, *(f"-I{place}" for place in sorted(places)), "-E", "-x", "c", "-"],
            input=f"#include <{header}>\n", text=True, capture_output=True, check=False,
        )  # fmt: skip
        if tried.returncode:
            raise SystemExit(
                f"triton-async is compiled, and the C compiler finds no <{header}>: install {package}\n"
                f"{tried.stderr[-500:]}"
            )


def workers() -> int:
    """Compilers to run at once: one for each processor that this process may use, as far as memory goes."""
    count = len(os.sched_getaffinity(0))
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
        count = min(count, available // COMPILER_NBYTES)
    return max(count, 1)


class Order(build):
    """Leaves the C library to `Build`, which has it made beside other things."""

    sub_commands = tuple(command for command in build.sub_commands if command[0] != "build_clib")


class Build(build_ext):
    """Compiles in parallel, and adds what the package reads at run time: protocol descriptors, kernels."""

    def run(self) -> None:
        check_tools()
        self.parallel = int(self.parallel or workers())
        self.built, self.counter = 0, threading.Lock()
        say(f"{len(self.extensions)} modules to translate to C and to compile, {self.parallel} at a time")
        # A process and not a thread, since translating forks others.
        beside = multiprocessing.get_context("fork").Process(target=self.build_others)
        beside.start()
        self.translate()
        beside.join()
        if beside.exitcode:
            raise SystemExit("what is not Cython could not be compiled")
        # The longest first, so that all compilers come to an end together.
        self.extensions.sort(key=lambda extension: -os.path.getsize(extension.sources[0]))
        if not DEBUG and not takes(LIGHTLY):
            for extension in self.extensions:
                extension.extra_compile_args = [*GENERATED, "-O2"]
        super().run()

    def build_others(self) -> None:
        """While Cython looks for what depends on what, which is work for one processor."""
        base = ROOT if self.inplace else Path(self.build_lib)
        self.run_command("build_clib")
        self.add_protos(base)
        self.add_kernels(base)
        self.add_c_api(base)

    def translate(self) -> None:
        """Here and not for every command: pip asks for names and versions first, on machines without a compiler too."""
        alone = [extension for extension in self.extensions if stands_alone(extension.name)]
        others = [extension for extension in self.extensions if not stands_alone(extension.name)]
        # Most of what it makes stays until a module is written: looking for garbage is a sixth of the time.
        gc.set_threshold(100_000, 10, 10)
        options = {
            "compiler_directives": DIRECTIVES, "build_dir": None,
            "force": not (ROOT / SHARED.replace(".", "/")).with_suffix(".c").exists(),  # C that shares nothing yet
        }  # fmt: skip
        # In this process, so that those which it starts for the others have at once what Cython makes when it is first
        # used: its tables and its builtins, a second of work.
        shared = [extension for extension in others if extension.name == SHARED]
        made = cythonize(shared, shared_utility_qualified_name=SHARED, **options)
        gc.freeze()
        options["nthreads"] = self.parallel if self.parallel > 1 else 0
        others = [extension for extension in others if extension.name != SHARED]
        made += cythonize(others, shared_utility_qualified_name=SHARED, **options)
        made += cythonize(alone, **options)
        found = {extension.name: extension for extension in made}
        for extension in self.extensions:
            extension.sources = found[extension.name].sources
            extension.depends = found[extension.name].depends

    def build_extensions(self) -> None:
        flags = self.precompile()
        for extension in self.extensions:
            extension.extra_compile_args = [*extension.extra_compile_args, *flags]
        super().build_extensions()

    def precompile(self) -> list[str]:
        """Reads INCLUDED once for all modules: flags with which a compiler finds it read, or reads it as ever."""
        if compiler_command()[0] == "ccache":  # which takes such modules for other ones each time
            return []
        folder = Path(self.build_temp)
        folder.mkdir(parents=True, exist_ok=True)
        header = folder / "included.h"
        # As in front of Cython's own #include.
        header.write_text("".join(["#define PY_SSIZE_T_CLEAN\n", *(f"#include <{name}>\n" for name in INCLUDED)]))
        command = [
            *self.compiler.compiler_so, *(f"-I{path}" for path in self.compiler.include_dirs),
            *self.extensions[0].extra_compile_args, "-x", "c-header", str(header), "-o", f"{header}.gch",
        ]  # fmt: skip
        subprocess.run(command, check=True)
        return ["-include", str(header)]

    def build_extension(self, ext: Extension) -> None:
        super().build_extension(ext)
        with self.counter:
            self.built += 1
            if self.built % max(len(self.extensions) // 10, 1) == 0:
                say(f"{self.built} of {len(self.extensions)} modules compiled")

    def add_c_api(self, base: Path) -> None:
        """The library, and the headers to compile against it."""
        package = base / "triton_async"
        headers = sorted((ROOT / C_API / "triton" / "core").glob("*.h"))
        folder = package / "include" / "triton" / "core"
        folder.mkdir(parents=True, exist_ok=True)
        for header in headers:
            shutil.copyfile(header, folder / header.name)
        target = package / "lib" / "libtritonserver.so"
        sources = [str(C_API / name) for name in C_API_SOURCES]
        inside = [*(ROOT / C_API).glob("*.h"), *(ROOT / "csrc").glob("*.h")]
        read = [*map(Path, sources), *headers, *inside, ROOT / "setup.py"]
        if target.exists() and target.stat().st_mtime > max(path.stat().st_mtime for path in read):
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        compiler = self.get_finalized_command("build_clib").compiler
        objects = compiler.compile(
            sources, output_dir=self.build_temp, include_dirs=[str(C_API), "csrc"], macros=C_API_MACROS,
            extra_postargs=["-std=gnu11", "-fPIC", "-pthread", *COMPILE, *OPTIMISED_C],
        )  # fmt: skip
        # -z defs: a function that it lacks is an error here, not where a backend calls it.
        compiler.link_shared_object(
            objects, str(target),
            extra_postargs=["-pthread", "-ldl", "-Wl,-soname,libtritonserver.so", "-Wl,-z,defs"], target_lang="c",
        )  # fmt: skip

    def add_protos(self, base: Path) -> None:
        target = base / "triton_async" / "protos" / "inference.desc"
        target.parent.mkdir(parents=True, exist_ok=True)
        command = [
            sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT / 'protos'}", "--include_imports",
            f"--descriptor_set_out={target}", *PROTOS,
        ]  # fmt: skip
        subprocess.run(command, check=True)

    def add_kernels(self, base: Path) -> None:
        """The source always; compiled where nvcc is, which saves doing so at the first start on a GPU."""
        folder = base / "triton_async" / "backends" / "device"
        source = ROOT / "csrc" / "gather.cu"
        shutil.copyfile(source, folder / source.name)
        target = folder / "gather.fatbin"
        if target.exists() and target.stat().st_mtime > source.stat().st_mtime:
            return
        target.unlink(missing_ok=True)
        nvcc = shutil.which("nvcc", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/cuda/bin"]))
        if nvcc is None:
            return
        first = f"compute_{GPU_ARCHITECTURES[0]}"
        codes = ",".join([*(f"sm_{one}" for one in GPU_ARCHITECTURES), first])
        command = [nvcc, "-fatbin", "-O3", f"-gencode=arch={first},code=[{codes}]", str(source), "-o", str(target)]
        if subprocess.run(command, check=False).returncode != 0:
            print("nvcc could not compile csrc/gather.cu; it will be compiled where it first runs", file=sys.stderr)
            target.unlink(missing_ok=True)


COMPILE = [
    "-Wall", "-Wno-unused-function", "-fvisibility=hidden",
    *(["-O0", "-g", "-UNDEBUG", "-DTA_DEBUG"] if DEBUG else ["-g0", "-fno-strict-aliasing"]),
]  # fmt: skip
# What Cython makes of the modules. It looks itself for variables that are not set, and knows more of them.
GENERATED = [*COMPILE, "-Wno-maybe-uninitialized"]
# -O1, and of -O2 what makes it faster. All else of -O2 takes half as long again to compile, and its code as many
# instructions; so it does without what -O1 finds out of pointers, which takes a twentieth of the time.
OPTIMISED = [] if DEBUG else [
    "-O1", "-finline-functions", "-finline-small-functions", "-findirect-inlining", "-fpartial-inlining",
    "-foptimize-sibling-calls", "-fcaller-saves", "-fipa-ra", "-fpeephole2", "-freorder-blocks-algorithm=stc",
    "-freorder-functions", "-fno-tree-pta",
]  # fmt: skip
# Compiled in two thirds of the time into a third more instructions: what goes once for a start, a model, a region or a
# connection, or for calls that are not inference and features that few requests ask for.
LIGHTLY = [] if DEBUG else [*OPTIMISED, "-Og", "-finline-functions-called-once"]
LIGHT = [
    "triton_async.backends.capi.handles",
    "triton_async.backends.device.captures",
    "triton_async.backends.fil.forest",
    "triton_async.backends.onnxruntime.api",
    "triton_async.backends.onnxruntime.session",
    "triton_async.core.changing",
    "triton_async.core.limited_model",
    "triton_async.core.limiter",
    "triton_async.core.trace",
    "triton_async.core.warmup_runs",
    "triton_async.frontends.grpc.express.slow",
    "triton_async.frontends.http.handover",
    "triton_async.infer.trace",
    "triton_async.memory.cuda",
    "triton_async.memory.mapping",
    "triton_async.watchdog",
]
# The C API, and the loops over data.
OPTIMISED_C = [] if DEBUG else ["-O2"]
OPTIMISED_LOOPS = [] if DEBUG else ["-O3"]
HEADERS = [f"csrc/{path.name}" for path in sorted((ROOT / "csrc").glob("*.h"))]


def stands_alone(name: str) -> bool:
    """Whether the module shares nothing with the rest of the package, which processes of models do not have."""
    return f"{name.replace('.', '/')}.py" in ALSO_COMPILED


def extensions() -> list[Extension]:
    found = [Extension(SHARED, [], extra_compile_args=[*GENERATED, *OPTIMISED])]
    for path in [*sorted((ROOT / "triton_async").rglob("*.pyx")), *(ROOT / name for name in ALSO_COMPILED)]:
        relative = path.relative_to(ROOT)
        name = ".".join(relative.with_suffix("").parts)
        called = C_SOURCES.get(name, [])
        if "csrc/slab.c" in called:
            called = [*called, "csrc/arena.c"]  # which slabs are cut from
        inside = sorted(str(header.relative_to(ROOT)) for header in (ROOT / C_API).glob("*.h"))
        found.append(
            Extension(
                name,
                [str(relative)],
                include_dirs=["csrc"],
                depends=[*HEADERS, *called, *(inside if ".capi." in name else [])],
                libraries=LIBRARIES.get(name, []),
                extra_compile_args=[*GENERATED, *(LIGHTLY if name in LIGHT else OPTIMISED)],
                extra_link_args=["-pthread"],
            )
        )
    return found


C_LIBRARY = (
    "triton_async_c",
    {
        "sources": sorted({source for sources in C_SOURCES.values() for source in sources}),
        "include_dirs": ["csrc"],
        "cflags": [*COMPILE, *OPTIMISED_LOOPS],
        "obj_deps": {"": HEADERS},
    },
)

setup(
    ext_modules=extensions(),
    libraries=[C_LIBRARY],
    cmdclass={"build": Order, "build_ext": Build},
    # A folder of its own, so that neither build takes the other's objects for its own.
    options={"build": {"build_base": "build/debug"}} if DEBUG else {},
)
