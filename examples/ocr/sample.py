"""Draws the sample picture; run it to make sample.png anew."""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

PICTURE = Path(__file__).resolve().parent / "sample.png"

# (text, top left corner, size in pixels, degrees counter-clockwise)
LINES = [
    ("Shipping Note 2025-0417", (60, 40), 46, 0.0),
    ("Deliver to: Harbour Street 12", (60, 140), 34, 0.0),
    ("Quantity 36 boxes", (60, 210), 34, 0.0),
    ("Total weight 148.5 kg", (480, 210), 34, 0.0),
    ("Handle with care", (60, 300), 40, 4.0),
]
SIZE = (960, 400)


def draw() -> Image.Image:
    """Dark text on light paper, the last line at an angle."""
    picture = Image.new("RGB", SIZE, (244, 240, 230))
    for text, corner, size, angle in LINES:
        font = ImageFont.load_default(size)
        box = font.getbbox(text)
        # The text is drawn as a mask of its own, so that it can be turned.
        mask = Image.new("L", (int(box[2]) + 8, int(box[3]) + 8), 0)
        ImageDraw.Draw(mask).text((4, 4), text, fill=255, font=font)
        mask = mask.rotate(angle, expand=True, resample=Image.Resampling.BICUBIC)
        picture.paste((32, 36, 60), corner, mask)
    return picture


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Draw the sample picture.")
    parser.add_argument("path", nargs="?", type=Path, default=PICTURE)
    draw().save(parser.parse_args().path, optimize=True)
