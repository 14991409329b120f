"""Reads what finalized models have written."""

import os
from pathlib import Path

from helpers import text
from sibling import WHO

JOURNAL = Path(os.path.abspath(__file__)).parents[3] / "journal.txt"


class TritonPythonModel:
    def execute(self, requests):
        from later import PLACE

        return [text(WHO, PLACE, *JOURNAL.read_text(encoding="utf-8").splitlines()) for _ in requests]
