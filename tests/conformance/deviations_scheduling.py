"""Where dynamic batching goes otherwise than on tritonserver 2.51 on purpose: what we do, and why."""

from __future__ import annotations

import base64
import struct

from .deviation import Deviation


def _told(*values: int) -> str:
    """What the model says of one request, as it stands in an answer."""
    return base64.b64encode(struct.pack("<3i", *values)).decode()


SCHEDULING_DEVIATIONS: dict[str, Deviation] = {
    "scheduling-delay-of-the-rest": Deviation(
        "Where there is a delay, the real server adds requests to a batch of a preferred size that still waits for its "
        "instance; ours is of that size, and the rest waits for company.",
        instead=(
            *((_told(5, 5, ran), _told(4, 4, ran)) for ran in range(1, 5)), (_told(5, 5, 5), _told(1, 1, 5)),
        ),
    ),
    "scheduling-timeout-delays-some": Deviation(
        "What times out under DELAY goes behind the others when it does so; on the real server when it would be next.",
        ("OK",),
    ),
    "scheduling-statistics-bounded": Deviation(
        "A request that finds its queue full has failed.", instead=(('"fail": {"count": 0, "ns": "zero"}',
                                                                     '"fail": {"count": 3, "ns": "time"}'),),
    ),
}  # fmt: skip
