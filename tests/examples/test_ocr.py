"""The OCR example's own arithmetic, and the whole pipeline on ONNX Runtime directly."""

from __future__ import annotations

from pathlib import Path

import detection
import numpy as np
import onnxruntime
import pytest
import recognition
import regions
import sample
from detection import FloatArray
from PIL import Image
from pipeline import Infer, read_text


@pytest.fixture(scope="module")
def infer(example_models: Path) -> Infer:
    sessions = {
        name: onnxruntime.InferenceSession(
            str(example_models / name / "1" / "model.onnx"), providers=["CPUExecutionProvider"]
        )
        for name in ("text_detection", "text_recognition")
    }

    def run(model: str, data: FloatArray) -> FloatArray:
        result: FloatArray = sessions[model].run(None, {"x": data})[0]
        return result

    return run


@pytest.fixture(scope="module")
def dictionary(example_models: Path) -> list[str]:
    return recognition.read_dictionary(example_models / "text_recognition" / "dictionary.txt")


def test_reads_the_sample(infer: Infer, dictionary: list[str]) -> None:
    with Image.open(sample.PICTURE) as picture:
        lines = read_text(picture, infer, dictionary)
    assert [line.text for line in lines] == [text for text, *_ in sample.LINES]


def test_reads_a_turned_and_scaled_picture(infer: Infer, dictionary: list[str]) -> None:
    with Image.open(sample.PICTURE) as picture:
        turned = picture.convert("RGB").rotate(-5, expand=True, fillcolor=(244, 240, 230))
    larger = turned.resize((turned.width * 2, turned.height * 2))
    lines = read_text(larger, infer, dictionary)
    assert {line.text for line in lines} == {text for text, *_ in sample.LINES}


def test_blank_picture_has_no_lines(infer: Infer, dictionary: list[str]) -> None:
    assert read_text(Image.new("RGB", (200, 100), "white"), infer, dictionary) == []


def test_regions_join_at_corners_and_across_rows() -> None:
    bitmap = np.array(
        [
            [1, 0, 1, 0, 0, 0],
            [1, 0, 1, 0, 0, 1],
            [1, 1, 1, 0, 1, 0],
            [0, 0, 0, 0, 0, 0],
            [1, 1, 0, 0, 0, 0],
        ],
        dtype=bool,
    )
    pixels = sorted(sum(end - start for _, start, end in region) for region in regions.find_regions(bitmap))
    assert pixels == [2, 2, 7]
    assert regions.find_regions(np.zeros((3, 4), dtype=bool)) == []


@pytest.mark.parametrize("degrees", [-40.0, -7.0, 0.0, 3.0, 44.0])
def test_smallest_rectangle_is_found_at_any_angle(degrees: float) -> None:
    angle = np.radians(degrees)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    inside = np.random.default_rng(3).uniform(-1, 1, (50, 2))
    points = np.concatenate([inside, [[-1, -1], [1, -1], [1, 1], [-1, 1]]]) * [40, 10] @ turn + [100, 60]
    rectangle = regions.smallest_rectangle(points)
    assert rectangle.width == pytest.approx(80)
    assert rectangle.height == pytest.approx(20)
    expected = np.array([[-40, -10], [40, -10], [40, 10], [-40, 10]]) @ turn + [100, 60]
    assert np.allclose(rectangle.corners(), expected)
    assert rectangle.grown(2).width == pytest.approx(84)


def test_input_sides_are_multiples_of_32() -> None:
    assert detection.prepare(Image.new("RGB", (961, 401))).shape == (1, 3, 416, 960)
    assert detection.prepare(Image.new("L", (10, 4000))).shape == (1, 3, 960, 32)


def test_boxes_come_back_in_picture_pixels_and_reading_order() -> None:
    probabilities = np.zeros((64, 128), dtype=np.float32)
    probabilities[40:48, 10:50] = 0.9
    probabilities[9:17, 70:110] = 0.9
    probabilities[10:18, 10:50] = 0.9
    probabilities[55:60, 100:120] = 0.4
    boxes = detection.find_boxes(probabilities, (256, 64))
    centres = [box.mean(axis=0).tolist() for box in boxes]
    assert centres == [
        pytest.approx([60, 14]),
        pytest.approx([180, 13]),
        pytest.approx([60, 44]),
    ]


def test_crop_takes_the_box() -> None:
    picture = Image.new("RGB", (100, 60), "white")
    picture.paste((255, 0, 0), (20, 10, 80, 30))
    box = np.array([[20, 10], [80, 10], [80, 30], [20, 30]], dtype=float)
    assert detection.crop(picture, box).size == (60, 20)
    assert (np.asarray(detection.crop(picture, box)) == [255, 0, 0]).all()
    column = np.array([[30, 5], [40, 5], [40, 55], [30, 55]], dtype=float)
    assert detection.crop(picture, column).size == (50, 10)


def test_batches_hold_similar_widths_and_every_line_once() -> None:
    lines = [Image.new("RGB", (width, 24), "white") for width in (500, 20, 300, 40, 310, 60, 80, 490)]
    groups = list(recognition.batches(lines))
    assert [batch.shape for _, batch in groups] == [(6, 3, 48, 620), (2, 3, 48, 1000)]
    assert sorted(index for members, _ in groups for index in members) == list(range(8))
    first = groups[0][0][0]
    assert groups[0][1][0, :, :, :40].min() == 1.0
    assert lines[first].width == 20
    assert not groups[0][1][0, :, :, 40:].any()
    assert list(recognition.batches([])) == []


def test_ctc_joins_repeats_and_drops_blanks() -> None:
    dictionary = ["", "a", "b", " "]
    classes = [0, 1, 1, 0, 1, 3, 2, 2, 0]
    probabilities = np.full((len(classes), 4), 0.1, dtype=np.float32)
    probabilities[np.arange(len(classes)), classes] = 0.7
    text, confidence = recognition.decode(probabilities, dictionary)
    assert text == "aa b"
    assert confidence == pytest.approx(0.7)
    assert recognition.decode(probabilities[:1], dictionary) == ("", 0.0)
    with pytest.raises(ValueError, match="4 classes, the dictionary 3"):
        recognition.decode(probabilities, dictionary[:3])
