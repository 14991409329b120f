"""Where ensembles answer otherwise than on tritonserver 2.51 on purpose: what we answer, and why."""

from __future__ import annotations

from .deviation import Deviation

_CONFIG = Deviation(
    "Our config has the field of the newest release.",
    instead=(('"ensemble_scheduling": {', '"ensemble_scheduling": {"max_inflight_requests": 0, '),),
)
_WITHOUT = Deviation(
    "The real server goes on without an output that a step needs; we say which step owes it.",
    (400,),
    r"in ensemble 'empty_between', \[request id: <id_unknown>\] unexpected deadlock, at least one output is not set "
    r"while no more ensemble steps can be made: model 'noout' did not give its output 'Y'",
)

ENSEMBLE_DEVIATIONS: dict[str, Deviation] = {
    "ensemble-config": _CONFIG,
    "ensemble-config-decoupled": _CONFIG,
    "ensemble-config-not-decoupled": _CONFIG,
    "ensemble-without-output-between": _WITHOUT,
    "ensemble-no-inputs": Deviation(
        "The real server only counts inputs: an optional one makes up for a required one.",
        (400,),
        r"\[request id: <id_unknown>\] expected number of inputs between 1 and 2 but got 1 inputs for model 'needed'\. "
        r"Got input\(s\) \['EZ'\], but missing required input\(s\) \['EX'\]\. "
        r"Please provide all required input\(s\)\.",
    ),
    "ensemble-stream-one-part": Deviation(
        "The real server loses the responses when an output of a decoupled step is asked for without those behind it.",
        ("OK",),
    ),
    "ensemble-stats-failing": Deviation(
        "The real server counts a request that failed twice.", instead=(('"fail": {"count": 4', '"fail": {"count": 2'),)
    ),
    "ensemble-load-itself": Deviation(
        "We name the ensembles of a circle in their order.",
        (400,),
        "load failed for model 'itself': circular dependency between ensembles: itself -> itself\n",
    ),
    "ensemble-load-stream_and_not": Deviation(
        "A step may take responses of a decoupled step beside other tensors, which are the same for all of them.",
        (200,),
    ),
}
