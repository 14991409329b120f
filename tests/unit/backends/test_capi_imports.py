"""Which libraries cannot tell on which thread they run, by what they ask of others."""

from __future__ import annotations

import subprocess
from pathlib import Path

import native_libraries
import pytest

from triton_async import native
from triton_async.backends.capi.imports import minds_threads

pytestmark = native_libraries.needs_compiler

C = "#define _GNU_SOURCE\n#include <stddef.h>\n"


def library(folder: Path, text: str, *options: str, name: str = "made", suffix: str = "c") -> Path:
    source, target = folder / f"{name}.{suffix}", folder / f"lib{name}.so"
    source.write_text(text)
    compiler = "gcc" if suffix == "c" else "g++"
    command = [compiler, "-O1", "-fPIC", "-shared", f"-I{native.INCLUDE}", str(source), "-o", str(target), *options]
    subprocess.run(command, check=True)
    return target


@pytest.mark.parametrize("source", ["identity.c", "fickle.c"])
def test_code_that_computes_and_answers_does_not_mind(tmp_path: Path, source: str) -> None:
    assert minds_threads(native_libraries.build(tmp_path / "libmade.so", source)) is None


def test_mathematics_and_containers_do_not_mind(tmp_path: Path) -> None:
    text = """
        #include <cmath>
        #include <map>
        #include <stdexcept>
        #include <string>
        #include <vector>
        std::map<std::string, std::vector<double>> all;
        extern "C" double f(const char *name, double x) {
            if (name == nullptr)
                throw std::invalid_argument(std::string("no name for ") + std::to_string(x));
            all[name].push_back(std::sin(x) + std::pow(x, 3));
            return all[name].back();
        }
    """
    assert minds_threads(library(tmp_path, text, suffix="cc")) is None


@pytest.mark.parametrize(("text", "reason"), [
    ("__thread int n; int f(void) { return n++; }", "it has thread-local variables"),
    ("#include <pthread.h>\npthread_mutex_t m; int f(void) { return pthread_mutex_lock(&m); }",
     "it calls pthread_mutex_lock"),
    ("#include <pthread.h>\npthread_t f(void) { return pthread_self(); }", "it calls pthread_self"),
    ("#include <time.h>\nint f(struct timespec *t) { return nanosleep(t, NULL); }", "it calls nanosleep"),
    ("#include <unistd.h>\nlong f(int fd, char *to) { return read(fd, to, 8); }", "it calls read"),
    ("#include <unistd.h>\nint f(void) { return gettid(); }", "it calls gettid"),
    ("#include <unistd.h>\nlong f(void) { return syscall(39); }", "it calls syscall"),
    ("#include <dlfcn.h>\nvoid *f(void) { return dlsym(RTLD_DEFAULT, \"sleep\"); }", "it calls dlsym"),
    ("#include <fenv.h>\nint f(void) { return fesetround(FE_UPWARD); }", "it calls fesetround"),
    ('#include "triton/core/tritonserver.h"\nvoid *f(void) { return (void *)TRITONSERVER_ServerInferAsync; }',
     "it calls TRITONSERVER_ServerInferAsync"),
    ("#include <string.h>\nchar *f(int n) { return strerror(n); }", "it calls strerror"),
    ("#include <string.h>\nint f(const char *a, const char *b) { return strcoll(a, b); }", "it calls strcoll"),
    ("#include <unistd.h>\nint f(int fd) { return isatty(fd); }", "it calls isatty"),
    ("int unheard_of(void); int f(void) { return unheard_of(); }", "it calls unheard_of"),
])  # fmt: skip
def test_code_that_waits_or_knows_its_thread_minds(tmp_path: Path, text: str, reason: str) -> None:
    assert minds_threads(library(tmp_path, C + text, "-lm")) == reason


@pytest.mark.parametrize("text", [
    "#include <mutex>\nstd::mutex m; void f() { std::lock_guard<std::mutex> held(m); }",
    "#include <thread>\nvoid f() { std::thread([] {}).join(); }",
    "#include <thread>\nvoid f() { std::this_thread::sleep_for(std::chrono::seconds(1)); }",
    "#include <condition_variable>\nvoid f(std::condition_variable &c) { c.notify_all(); }",
    "#include <future>\nint f(std::future<int> &found) { return found.get(); }",
    "#include <fstream>\nint f() { int n; std::ifstream(\"/dev/stdin\") >> n; return n; }",
    "#include <iostream>\nint f() { int n; std::cin >> n; return n; }",
    "#include <string>\nint g(); int f() { static const std::string s(g(), 'x'); return s[0]; }",
])  # fmt: skip
def test_code_of_cxx_that_waits_minds(tmp_path: Path, text: str) -> None:
    assert str(minds_threads(library(tmp_path, text, suffix="cc"))).startswith("it calls")


def test_what_a_library_is_linked_with_counts(tmp_path: Path) -> None:
    other = library(tmp_path, "int g(void) { return 1; }", name="other")
    made = library(tmp_path, "int g(void); int f(void) { return g(); }", str(other))
    assert str(minds_threads(made)).startswith("it needs ")


# Where a header says that the sections begin.
SECTIONS_AT = 40


@pytest.mark.parametrize("data", [
    b"", b"no library", b"\x7fELF\x02\x01" + bytes(200),
    b"\x7fELF\x02\x01" + bytes(SECTIONS_AT - 6) + (1 << 63).to_bytes(8, "little") + bytes([0] * 12 + [9]) + bytes(200),
])  # fmt: skip
def test_files_that_say_nothing_mind(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "file").write_bytes(data)
    assert str(minds_threads(tmp_path / "file")).startswith("its file says nothing: ")


def test_a_library_cut_short_minds(tmp_path: Path) -> None:
    whole = native_libraries.build(tmp_path / "libmade.so", "identity.c").read_bytes()
    for length in range(0, len(whole), 97):
        (tmp_path / "file").write_bytes(whole[:length])
        assert str(minds_threads(tmp_path / "file")).startswith("its file says nothing: "), length
