#!/usr/bin/env bash
# PyTorch 2.13.0 (CPU, OpenMP): torch.set_num_threads is neither of the calling thread nor of the process. A thread that
# has run or asked anything of PyTorch before keeps its number, whatever others set. One that has not takes what any
# thread has set last, at its first call, also where it has set a number of its own before: setting is no such call.
#
# A guess: each of three threads that set 1, 2 and 3 threads for themselves has these.
#
# Seen: all three have the number that was set last; a thread that had asked before has the 4 of the beginning, and one
# that begins afterwards the last one, too.
#
# What helps: torch.get_num_threads() first, then torch.set_num_threads(n), in the same thread. Threads to come get n
# all the same, until another thread sets another number.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy
cat > "$folder/threads.py" <<'PYTHON'
import threading

import torch


def of_three(ask_first: bool) -> list[int]:
    """What threads have that set 1, 2 and 3, one after the other, once all have set it."""
    found: dict[int, int] = {}
    turns = [threading.Event() for _ in range(4)]

    def run(count: int) -> None:
        turns[count - 1].wait()
        if ask_first:
            torch.get_num_threads()
        torch.set_num_threads(count)
        turns[count].set()
        turns[3].wait()
        found[count] = torch.get_num_threads()

    threads = [threading.Thread(target=run, args=(count,)) for count in (1, 2, 3)]
    for thread in threads:
        thread.start()
    turns[0].set()
    for thread in threads:
        thread.join()
    return [found[count] for count in (1, 2, 3)]


def of_one() -> int:
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    return found[0]


torch.get_num_threads()
torch.set_num_threads(4)
as_usual = of_three(ask_first=False)
main, later = torch.get_num_threads(), of_one()
asked_first = of_three(ask_first=True)
print(f"PyTorch {torch.__version__}: threads that set 1, 2, 3 have {as_usual}, asking first {asked_first}; "
      f"the thread that set 4 before has {main}, a later one {later}")
assert as_usual == [3, 3, 3], as_usual
assert (main, later) == (4, 3), (main, later)
assert asked_first == [1, 2, 3], asked_first
PYTHON
"$folder/venv/bin/python" "$folder/threads.py"
