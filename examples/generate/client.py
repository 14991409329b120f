"""Prints words as they are generated, over server-sent events or a gRPC stream."""

from __future__ import annotations

import argparse
import http.client
import json
import queue
import sys
from collections.abc import Iterator

import numpy as np

MODEL = "text_generator"


def over_http(url: str, request: dict[str, object]) -> Iterator[str]:
    """The words from generate_stream."""
    connection = http.client.HTTPConnection(url, timeout=60)
    connection.request("POST", f"/v2/models/{MODEL}/generate_stream", json.dumps(request))
    response = connection.getresponse()
    if response.status != 200:
        raise SystemExit(response.read().decode())
    for line in response:
        if line.startswith(b"data: "):
            event = json.loads(line[len(b"data: ") :])
            if "error" in event:
                raise SystemExit(event["error"])
            yield event["text"]
    connection.close()


def over_grpc(url: str, request: dict[str, object]) -> Iterator[str]:
    """The words from a stream."""
    from tritonclient import grpc

    kinds = {"prompt": ("BYTES", object), "max_words": ("INT32", np.int32), "temperature": ("FP32", np.float32)}
    inputs = []
    for name, value in request.items():
        datatype, dtype = kinds.get(name, ("INT64", np.int64))
        inputs.append(grpc.InferInput(name, [1], datatype))
        inputs[-1].set_data_from_numpy(np.array([value], dtype=dtype))
    answers: queue.Queue[tuple[object, object]] = queue.Queue()
    with grpc.InferenceServerClient(url) as client:
        client.start_stream(lambda result, error: answers.put((result, error)))
        client.async_stream_infer(MODEL, inputs, enable_empty_final_response=True)
        while True:
            result, error = answers.get(timeout=60)
            if error is not None:
                raise SystemExit(str(error))
            response = result.get_response()  # type: ignore[attr-defined]
            if response.outputs:
                yield result.as_numpy("text")[0].decode()  # type: ignore[attr-defined]
            if response.parameters["triton_final_response"].bool_param:
                return


def main(arguments: list[str] | None = None) -> int:
    """Print the words as they come."""
    parser = argparse.ArgumentParser(description="Have words generated one by one.")
    parser.add_argument("prompt", nargs="?", default="The old sailor")
    parser.add_argument("-u", "--url", help="host:port, default localhost:8000 (8001 with --grpc)")
    parser.add_argument("--grpc", action="store_true", help="use a gRPC stream instead of HTTP")
    parser.add_argument("-n", "--words", type=int, default=40, help="at most so many words, %(default)s")
    parser.add_argument(
        "-t", "--temperature", type=float, default=0.8, help="0 always takes the best word, %(default)s"
    )
    parser.add_argument("-s", "--seed", type=int, default=1, help="%(default)s")
    options = parser.parse_args(arguments)
    request = {
        "prompt": options.prompt,
        "max_words": options.words,
        "temperature": options.temperature,
        "seed": options.seed,
    }
    url = options.url or ("localhost:8001" if options.grpc else "localhost:8000")
    print(options.prompt, end="", flush=True)
    for word in (over_grpc if options.grpc else over_http)(url, request):
        print(word, end="", flush=True)
    print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
