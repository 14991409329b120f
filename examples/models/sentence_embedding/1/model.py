"""Cuts sentences into tokens with the model's own tokeniser and has them encoded, all requests of a batch at once."""

from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils
from tokenizers import Tokenizer

# The model is trained on so many.
MOST_TOKENS = 256


def sentences(request):
    """The texts of a request, or a TritonError."""
    try:
        return [text.decode() for text in pb_utils.get_input_tensor_by_name(request, "TEXT").as_numpy().reshape(-1)]
    except UnicodeDecodeError as problem:
        return pb_utils.TritonError(f"TEXT is not UTF-8: {problem}", pb_utils.TritonError.INVALID_ARG)


class TritonPythonModel:
    def initialize(self, args):
        self.tokenizer = Tokenizer.from_file(str(Path(args["model_repository"]) / "tokenizer.json"))
        self.tokenizer.enable_truncation(MOST_TOKENS)
        self.tokenizer.enable_padding()

    def execute(self, requests):
        # Per request: its sentences, or the error that is its own.
        parts = [sentences(request) for request in requests]
        encodings = self.tokenizer.encode_batch([text for part in parts if isinstance(part, list) for text in part])
        answer = self.encode(encodings) if encodings else None
        if answer is not None and answer.has_error():
            return [pb_utils.InferenceResponse(error=answer.error()) for _ in requests]
        responses, begin = [], 0
        for part in parts:
            if not isinstance(part, list):
                responses.append(pb_utils.InferenceResponse(error=part))
                continue
            rows = pb_utils.get_output_tensor_by_name(answer, "embedding").as_numpy()[begin : begin + len(part)]
            counts = [[sum(encoding.attention_mask)] for encoding in encodings[begin : begin + len(part)]]
            outputs = [pb_utils.Tensor("EMBEDDING", rows), pb_utils.Tensor("TOKENS", np.array(counts, dtype=np.int32))]
            responses.append(pb_utils.InferenceResponse(outputs))
            begin += len(part)
        return responses

    def encode(self, encodings):
        """Asks the encoder."""
        inputs = [
            pb_utils.Tensor("input_ids", np.array([encoding.ids for encoding in encodings], dtype=np.int64)),
            pb_utils.Tensor(
                "attention_mask", np.array([encoding.attention_mask for encoding in encodings], dtype=np.int64)
            ),
        ]
        call = pb_utils.InferenceRequest(
            model_name="sentence_encoder", requested_output_names=["embedding"], inputs=inputs
        )
        return call.exec()
