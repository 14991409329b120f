"""Cuts sentences into tokens with the model's own tokeniser and has them encoded, all requests of a batch at once."""

from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils
from tokenizers import Tokenizer

# The model is trained on so many.
MOST_TOKENS = 256


class TritonPythonModel:
    def initialize(self, args):
        self.tokenizer = Tokenizer.from_file(str(Path(args["model_repository"]) / "tokenizer.json"))
        self.tokenizer.enable_truncation(MOST_TOKENS)
        self.tokenizer.enable_padding()

    def execute(self, requests):
        arrays = [pb_utils.get_input_tensor_by_name(request, "TEXT").as_numpy().reshape(-1) for request in requests]
        try:
            sentences = [sentence.decode() for array in arrays for sentence in array]
        except UnicodeDecodeError as problem:
            error = pb_utils.TritonError(f"TEXT is not UTF-8: {problem}", pb_utils.TritonError.INVALID_ARG)
            return [pb_utils.InferenceResponse(error=error) for _ in requests]
        encodings = self.tokenizer.encode_batch(sentences)
        response = self.encode(encodings)
        if response.has_error():
            return [pb_utils.InferenceResponse(error=response.error()) for _ in requests]
        rows = pb_utils.get_output_tensor_by_name(response, "embedding").as_numpy()
        counts = np.array([[sum(encoding.attention_mask)] for encoding in encodings], dtype=np.int32)
        ends = np.cumsum([len(array) for array in arrays])[:-1]
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor("EMBEDDING", part), pb_utils.Tensor("TOKENS", count)])
            for part, count in zip(np.split(rows, ends), np.split(counts, ends), strict=True)
        ]

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
