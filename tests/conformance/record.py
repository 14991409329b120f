"""Records the real server's answers to the corpus: python -m tests.conformance.record [group ...]."""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from .corpus import GROUPS
from .replay import Variant, replay, starter, survived
from .setup_oracle import prepare
from .wire import Answer

RECORDED = Path(__file__).parent / "recorded"


def write(group: str, answers: dict[str, Answer]) -> None:
    """Writes one case a line, so that a change of one answer is a change of one line."""
    lines = (f"{json.dumps(case_id)}: {json.dumps(answer)}" for case_id, answer in answers.items())
    (RECORDED / f"{group}.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


def read(group: str) -> dict[str, Answer]:
    """The recorded answers of a group by case id."""
    answers: dict[str, Answer] = json.loads((RECORDED / f"{group}.json").read_text())
    return answers


def main() -> None:
    """Records the groups named, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("groups", nargs="*", choices=[*GROUPS, []], help="default: all")
    groups = parser.parse_args().groups or list(GROUPS)
    RECORDED.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as work:
        start = starter(Path(work), Variant(prepare(), "python"))
        for group in groups:
            answers = {case.id: answer for case, answer in replay(group, start)}
            lost = [case_id for case_id, answer in answers.items() if not survived(answer)]
            if lost:
                parser.error(f"{group} is not recorded, take out what the real server does not survive: {lost}")
            write(group, answers)
            print(f"{group}: {len(answers)} answers")


if __name__ == "__main__":
    main()
