"""What is done once before any worker is forked, so that it is not done, in memory of its own, in each of them: a model
is loaded and executed, and the holes between objects are filled.

Interpreters note in their own objects what they have looked up and how they have run it; that is shared afterwards.
"""

from __future__ import annotations

import builtins
import gc
import json
import os
import socket
from typing import Any, cast

from . import api, process, wire
from .context import Context
from .loader import Source
from .runner import Runner

MODEL = """
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for request in requests:
            array = pb_utils.get_input_tensor_by_name(request, "IN").as_numpy()
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", array)]))
        return responses
"""
# Executions until an interpreter has adapted to what it runs.
TIMES = 20
# Bytes of the memory that stands for what is shared with the server.
MEMORY_NBYTES = 1 << 16
FLOATS = 16
# Bytes of small objects, of each of the sizes that Python's allocator tells apart, that may have room between others.
HOLES_NBYTES = 1 << 15
HOLE_SIZES = range(16, 513, 16)


def rehearse() -> None:
    """Loads a model, executes it some times and ends it, without a server."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    descriptors = [os.memfd_create("rehearsal", os.MFD_CLOEXEC) for _ in range(2)]
    try:
        for descriptor in descriptors:
            os.ftruncate(descriptor, MEMORY_NBYTES)
        channel = process.WorkerChannel(theirs, *map(wire.Memory, descriptors))
        channel.output_names = ["OUT"]
        context = channel.context = Context(cast(Any, channel), "rehearsal", 1, "rehearsal_0", "/", False)
        source = Source("/rehearsal/1/model.py")
        source.keep(source.path, compile(MODEL, "model.py", "exec", dont_inherit=True))
        runner = Runner(source, context, ["/rehearsal"], api.make_modules(context), dict(vars(builtins)))
        runner.load()
        runner.initialize(json.loads(json.dumps({"model_name": "rehearsal"})))
        for number in range(TIMES):
            ours.send(_batch(number + 1))
        ours.send(bytes([wire.FINALIZE]))
        process.serve(channel, runner)
        runner.close()
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
        ours.close()
        theirs.close()


def _batch(number: int) -> bytes:
    """A message with one request, and word to execute it."""
    fields = wire.U64.pack(0) + wire.pack_text("") + wire.pack_long(b"") + wire.U16.pack(0) + wire.pack_long(b"")
    start = wire.REQUEST_HEAD.size + len(fields)
    tensor = wire.pack_text("IN") + wire.INLINE_HEADS[1].pack(11, 1, wire.INLINE, FLOATS, 4 * FLOATS)
    tensors = wire.U16.pack(1) + tensor + bytes(4 * FLOATS)
    head = wire.REQUEST_HEAD.pack(wire.REQUEST, start + len(tensors), start, number, 0, 0, 0, 0, 0)
    return head + fields + tensors + wire.EXECUTE_EVENT.pack(wire.EXECUTE, number)


def fill_holes() -> list[Any]:
    """Objects in the places that are free between those that there are: a worker makes its own elsewhere, side by side,
    and copies no page for each of them. To be kept.
    """
    gc.collect()
    filled: list[Any] = []
    for nbytes in HOLE_SIZES:
        for _ in range(HOLES_NBYTES // nbytes):
            if nbytes < 48:  # what an object of bytes takes at least
                filled.append(object() if nbytes == 16 else float(nbytes))
            else:
                filled.append(bytes(nbytes - 33))
    return filled
