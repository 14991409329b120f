"""Writes words one by one, each as a response of its own, until the sentence or the patience of the client ends."""

import re
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
END = 0
# The decoder knows so many places.
CONTEXT = 64
MOST_WORDS = 500


def value(request, name, default):
    """The one element of an optional input."""
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    return default if tensor is None else tensor.as_numpy().reshape(-1)[0].item()


def sampled(scores, temperature, random):
    """A word drawn by its score; the best one at temperature 0."""
    if temperature <= 0:
        return int(scores.argmax())
    heated = np.exp((scores - scores.max()) / temperature)
    return int(random.choice(len(scores), p=heated / heated.sum()))


class TritonPythonModel:
    def initialize(self, args):
        path = Path(args["model_repository"]) / "words.txt"
        self.words = path.read_text(encoding="utf-8").split()
        self.numbers = {word.lower(): number for number, word in enumerate(self.words)}

    def execute(self, requests):
        for request in requests:
            self.generate(request, request.get_response_sender())

    def tokens(self, text):
        """The words of the prompt that are known; the others are passed over."""
        found = [self.numbers.get(word) for word in re.findall(r"\w+|[.,]", text.lower())]
        return [number for number in found if number is not None] or [self.numbers["the"]]

    def generate(self, request, sender):
        prompt = pb_utils.get_input_tensor_by_name(request, "prompt").as_numpy().reshape(-1)[0].decode()
        count = value(request, "max_words", 40)
        if not 0 <= count <= MOST_WORDS:
            error = pb_utils.TritonError(
                f"max_words is {count}, it must be between 0 and {MOST_WORDS}", pb_utils.TritonError.INVALID_ARG
            )
            sender.send(pb_utils.InferenceResponse(error=error), FINAL)
            return
        temperature, random = value(request, "temperature", 1.0), np.random.default_rng(value(request, "seed", 0))
        tokens = self.tokens(prompt)
        for _ in range(count):
            if request.is_cancelled():
                break
            response = self.scores(tokens[-CONTEXT:])
            if response.has_error():
                sender.send(pb_utils.InferenceResponse(error=response.error()))
                break
            scores = pb_utils.get_output_tensor_by_name(response, "scores").as_numpy()[0].astype(np.float64)
            tokens.append(sampled(scores, temperature, random))
            if tokens[-1] == END:
                break
            word = self.words[tokens[-1]]
            text = word if word in ".," else f" {word}"
            sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("text", np.array([text], dtype=object))]))
        sender.send(flags=FINAL)

    def scores(self, tokens):
        """Asks the decoder."""
        inputs = [pb_utils.Tensor("tokens", np.array([tokens], dtype=np.int64))]
        call = pb_utils.InferenceRequest(model_name="decoder", requested_output_names=["scores"], inputs=inputs)
        return call.exec()
