"""The pose example with backends in C++: the same joints as with those in Python, and errors for what is no picture."""

from __future__ import annotations

import io
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("PIL")
pytest.importorskip("onnx")

import build_native
from PIL import Image
from pose import locate, prepare

from triton_async.embedding.blocking import SyncServer
from triton_async.errors import InvalidArg


def _compiles(folder: Path) -> bool:
    source = folder / "probe.cc"
    source.write_text("#include <cstdio>\n#include <jpeglib.h>\n#include <png.h>\nint main() { return 0; }\n")
    command = ["g++", str(source), "-ljpeg", "-lpng", "-o", str(folder / "probe")]
    return shutil.which("g++") is not None and subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pose")
    if not _compiles(folder):
        pytest.skip("no compiler, or no headers of libjpeg and libpng")
    build_native.build(folder / "models")
    return folder / "models"


def picture(width: int, height: int) -> Image.Image:
    """Smooth, with a few edges."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    planes = [np.sin(x / 17 + shift) * np.cos(y / 23) * 100 + 128 for shift in range(3)]
    pixels = np.stack(planes, axis=-1)
    pixels[height // 3 : height // 2, width // 4 : width // 2] = 20
    return Image.fromarray(pixels.astype(np.uint8))


def encoded(image: Image.Image, form: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, quality=95)
    return buffer.getvalue()


@pytest.mark.parametrize(("form", "size"), [("PNG", (320, 480)), ("PNG", (100, 90)), ("JPEG", (640, 427))])
def test_pictures_are_prepared_as_in_python(repository: Path, form: str, size: tuple[int, int]) -> None:
    content = encoded(picture(*size), form)
    expected, expected_size = prepare(content)
    with SyncServer(model_repository=str(repository), model_control_mode="explicit",
                    load_model=["image_preprocess"]) as server:  # fmt: skip
        answer = server.infer("image_preprocess", {"INPUT": np.array([[content], [content]], dtype=object)})
        for row in range(2):
            # A step of a pixel's value is 1/255 of the range, divided by the deviation.
            assert np.abs(answer["PIXELS"][row] - expected).max() < (0.02 if form == "PNG" else 0.06)
            assert answer["SIZE"][row].tolist() == expected_size.tolist()
        for wrong in (b"", b"no picture", content[: len(content) // 3], b"\xff\xd8\xff\xe0garbage"):
            if form == "JPEG" and wrong == content[: len(content) // 3]:
                continue  # libjpeg shows what there is of it
            with pytest.raises(InvalidArg, match="INPUT is no picture"):
                server.infer("image_preprocess", {"INPUT": np.array([[wrong]], dtype=object)})


def test_joints_are_those_of_the_python_models(repository: Path) -> None:
    content = encoded(picture(300, 400), "PNG")
    with SyncServer(model_repository=str(repository)) as server:
        maps = np.random.default_rng(1).random((3, 17, 64, 48), dtype=np.float32)
        sizes = np.array([[300, 400], [20, 10], [1, 1]], np.float32)
        found = server.infer("pose_postprocess", {"MAPS": maps, "SIZE": sizes})["RESULT"]
        expected = np.stack([locate(*row) for row in zip(maps, sizes, strict=True)])
        assert np.allclose(found, expected, rtol=1e-5)
        points = server.infer("hrnet_pose_estimate", {"INPUT": np.array([[content]], dtype=object)})["RESULT"]
        assert points.shape == (1, 17, 3)
        assert np.isfinite(points).all()
        assert (points[0, :, 0] >= 0).all()
        assert (points[0, :, 0] <= 300).all()
