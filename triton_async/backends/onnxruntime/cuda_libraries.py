"""NVIDIA's libraries from Python packages, loaded before the GPU providers look for them by name.

The dynamic linker finds no library inside site-packages by itself, but takes one that is loaded already.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import re
from collections.abc import Iterable
from pathlib import Path

# In the order in which they need each other.
_CUDA = ("cudart", "nvrtc", "nvJitLink", "cublasLt", "cublas", "cufft", "curand")
_CUDNN = ("cudnn",)
_TENSORRT = ("nvinfer", "nvinfer_plugin", "nvonnxparser")


def preload(capi: Path) -> None:
    """Loads those that the ONNX Runtime in `capi` was built for, where they are installed. Blocking.

    Missing ones are no error here: they may be where the linker looks, and the provider says so if not.
    """
    for path in library_files(cuda_major(capi), _package("nvidia"), _package("tensorrt_libs")):
        with contextlib.suppress(OSError):
            ctypes.CDLL(str(path))


def cuda_major(capi: Path) -> int:
    """Major version of CUDA that the package was built with; 0 when it does not say."""
    try:
        text = (capi / "build_and_package_info.py").read_text()
    except OSError:
        return 0
    found = re.search(r"^cuda_version\s*=\s*['\"](\d+)", text, re.MULTILINE)
    return int(found[1]) if found else 0


def library_files(major: int, nvidia: Iterable[Path], tensorrt: Iterable[Path]) -> list[Path]:
    """Library files to load, in order, from the folders of the packages `nvidia` and `tensorrt_libs`."""
    found: list[Path] = []
    for root in nvidia:
        # One folder for all since CUDA 13, before that one for each library.
        folders = [root / f"cu{major}" / "lib"]
        if not folders[0].is_dir():
            folders = [path for path in sorted(root.glob("*/lib")) if not re.fullmatch(r"cu\d+", path.parent.name)]
        found += _pick(_CUDA, folders) + _pick(_CUDNN, [root / "cudnn" / "lib"])
    return found + _pick(_TENSORRT, tensorrt)


def _pick(names: Iterable[str], folders: Iterable[Path]) -> list[Path]:
    folders = list(folders)
    return [path for name in names for folder in folders for path in sorted(folder.glob(f"lib{name}.so.*"))]


def _package(name: str) -> list[Path]:
    spec = importlib.util.find_spec(name)
    return [Path(place) for place in (spec.submodule_search_locations or ())] if spec else []
