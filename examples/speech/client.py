"""Finds speech in streams of sound: every stream is a sequence, whose state the server keeps.

    python examples/speech/client.py talk.wav              # 16 kHz, one channel, 16 bits
    python examples/speech/client.py -n 200 --http         # 200 streams at once, of a sound made here
"""

from __future__ import annotations

import argparse
import asyncio
import time
import wave
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import numpy.typing as npt
import tritonclient.grpc.aio as grpcclient
import tritonclient.http.aio as httpclient

RATE = 16000
CHUNK = 512  # samples of a step, 32 ms
CONTEXT = 64  # of them before, that a step sees again

Sound = npt.NDArray[np.float32]


def read(path: str) -> Sound:
    """The samples of a WAV file, from -1 to 1."""
    with wave.open(path, "rb") as file:
        if (file.getframerate(), file.getnchannels(), file.getsampwidth()) != (RATE, 1, 2):
            raise SystemExit(f"{path}: expected 16 kHz, one channel, 16 bits")
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32768


def made_up(seed: int, seconds: float = 4.0) -> Sound:
    """Silence, noise, and a buzz with the formants of vowels."""
    source = np.random.default_rng(seed)
    at = np.arange(int(seconds * RATE)) / RATE
    pitch = 110 + 30 * np.sin(2 * np.pi * 2.5 * at + seed)
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    voice = sum(
        np.sin(number * phase) * np.exp(-(((number * pitch - formant) / 250) ** 2))
        for number in range(1, 30)
        for formant in (500 + 300 * np.sin(2 * np.pi * 1.7 * at), 1500 + 600 * np.sin(2 * np.pi * 1.1 * at))
    )
    loud = np.clip(4 * np.sin(2 * np.pi * at / 2 + seed), 0, 1) * (0.6 + 0.4 * np.sin(2 * np.pi * 4 * at))
    return np.asarray(0.08 * loud * voice + 0.003 * source.standard_normal(len(at)), np.float32)


def steps(sound: Sound) -> list[Sound]:
    """What the model gets step by step, [1, 576] each; what does not fill a step is left out."""
    padded = np.concatenate([np.zeros(CONTEXT, np.float32), sound])
    count = len(sound) // CHUNK
    return [padded[None, number * CHUNK : number * CHUNK + CONTEXT + CHUNK] for number in range(count)]


def _input(module: Any, step: Sound) -> list[Any]:
    tensor = module.InferInput("input", list(step.shape), "FP32")
    tensor.set_data_from_numpy(step)
    return [tensor]


async def over_http(client: Any, model: str, sequence: int | str, sound: Sound) -> list[float]:
    """The probability of speech in each step; one request after the other."""
    found = []
    parts = steps(sound)
    for number, step in enumerate(parts):
        result = await client.infer(
            model, _input(httpclient, step), sequence_id=sequence, sequence_start=number == 0,
            sequence_end=number == len(parts) - 1,
        )  # fmt: skip
        found.append(float(result.as_numpy("output")[0, 0]))
    return found


async def over_grpc(client: Any, model: str, sequence: int | str, sound: Sound) -> list[float]:
    """The same over a stream of its own. All steps may be under way at once: the server keeps their order."""
    parts = steps(sound)

    async def requests() -> AsyncIterator[dict[str, Any]]:
        for number, step in enumerate(parts):
            yield {
                "model_name": model, "inputs": _input(grpcclient, step), "sequence_id": sequence,
                "sequence_start": number == 0, "sequence_end": number == len(parts) - 1,
            }  # fmt: skip

    found = []
    async for result, error in client.stream_infer(requests()):
        if error is not None:
            raise error
        found.append(float(result.as_numpy("output")[0, 0]))
    return found


async def detect(sounds: list[Sound], *, url: str, http: bool, model: str = "speech") -> list[list[float]]:
    """The probabilities of all sounds, each a stream, all at once."""
    if http:
        async with httpclient.InferenceServerClient(url, conn_limit=len(sounds)) as client:
            return await asyncio.gather(
                *(over_http(client, model, number, sound) for number, sound in enumerate(sounds, 1))
            )
    async with grpcclient.InferenceServerClient(url) as client:
        return await asyncio.gather(
            *(over_grpc(client, model, f"stream {number}", sound) for number, sound in enumerate(sounds, 1))
        )


def line_of(probabilities: list[float]) -> str:
    """A picture of them, a letter for each tenth of a second."""
    return "".join(" .:-=+*#%@"[min(9, int(10 * max(probabilities[at : at + 3])))]
                   for at in range(0, len(probabilities), 3))  # fmt: skip


def main() -> None:
    """Prints where there is speech."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", help="a WAV file; without one a sound is made up")
    parser.add_argument("-u", "--url", help="localhost:8001, with --http localhost:8000")
    parser.add_argument("-n", "--streams", type=int, default=1)
    parser.add_argument("--http", action="store_true", help="ask over HTTP in place of gRPC streams")
    options = parser.parse_args()
    url = options.url or ("localhost:8000" if options.http else "localhost:8001")
    sound = read(options.file) if options.file else made_up(0)
    # Each stream a little later than the one before.
    sounds = [np.roll(sound, number * CHUNK * 3) for number in range(options.streams)]
    begun = time.monotonic()
    found = asyncio.run(detect(sounds, url=url, http=options.http))
    took = time.monotonic() - begun
    for probabilities in found[:10]:
        print(f"|{line_of(probabilities)}|")
    seconds = sum(len(sound) for sound in sounds) / RATE
    print(f"{len(sounds)} streams, {seconds:.0f} s of sound in {took:.1f} s")


if __name__ == "__main__":
    main()
