"""The express lane leaves nothing to the garbage collector: what it makes dies with its last reference."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
from core_harness import run, write_model
from express_harness import Wire, express
from http_harness import infer_body, message


def cyclic_garbage() -> list[Any]:
    """What only the collector frees, of our types."""
    gc.collect()
    found = [item for item in gc.garbage if type(item).__module__.startswith("triton_async")]
    gc.garbage.clear()
    return found


def test_inference_makes_no_cyclic_garbage(tmp_path: Path) -> None:
    write_model(tmp_path, "m")
    body, headers = infer_body(np.arange(16, dtype=np.float32), id="1")
    large, large_headers = infer_body(np.arange(50_000, dtype=np.float32))
    good = message("POST", "/v2/models/m/infer", body, headers)
    bad = message("POST", "/v2/models/m/infer", body.replace(b"FP32", b"INT8"), headers)
    requests = (good, bad, message("POST", "/v2/models/m/infer", large, large_headers))

    async def test() -> None:
        async with express(tmp_path) as (_, listener):
            cyclic_garbage()
            gc.set_debug(gc.DEBUG_SAVEALL)
            try:
                for request in requests:
                    wire = Wire(listener)
                    wire.send(request * 20)
                    await wire.answers(20)
                    wire.leave()
                    # As uvloop's transports do behind `connection_lost`.
                    wire.protocol = None
                assert cyclic_garbage() == []
            finally:
                gc.set_debug(0)

    run(test)
