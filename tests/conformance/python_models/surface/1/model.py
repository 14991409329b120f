"""Tells what `triton_python_backend_utils` offers."""

import json

import numpy as np
import triton_python_backend_utils as pb_utils
from helpers import kind, outcome, said, what

NAMES = [
    "TritonError",
    "TritonModelException",
    "Tensor",
    "InferenceRequest",
    "InferenceResponse",
    "Logger",
    "MetricFamily",
    "PreferredMemory",
    "TRITONSERVER_MEMORY_CPU",
    "TRITONSERVER_MEMORY_GPU",
    "TRITONSERVER_REQUEST_FLAG_SEQUENCE_START",
    "TRITONSERVER_REQUEST_FLAG_SEQUENCE_END",
    "TRITONSERVER_RESPONSE_COMPLETE_FINAL",
    "TRITONSERVER_REQUEST_RELEASE_ALL",
    "TRITONSERVER_REQUEST_RELEASE_RESCHEDULE",
    "load_model",
    "unload_model",
    "is_model_ready",
    "get_input_tensor_by_name",
    "get_output_tensor_by_name",
    "get_input_config_by_name",
    "get_output_config_by_name",
    "using_decoupled_model_transaction_policy",
    "triton_to_numpy_type",
    "numpy_to_triton_type",
    "triton_string_to_numpy",
    "serialize_byte_tensor",
    "deserialize_bytes_tensor",
    "ModelConfig",
    "get_model_dir",
]
TYPES = [
    "BOOL",
    "UINT8",
    "UINT16",
    "UINT32",
    "UINT64",
    "INT8",
    "INT16",
    "INT32",
    "INT64",
    "FP16",
    "FP32",
    "FP64",
    "STRING",
    "BF16",
    "NOTHING",
]


def numpy_name(triton_type):
    result = outcome(pb_utils.triton_string_to_numpy, f"TYPE_{triton_type}")
    return result if isinstance(result, str) else np.dtype(result).str


def round_trip(code):
    return np.dtype(pb_utils.triton_to_numpy_type(code)).str


def request(**more):
    return pb_utils.InferenceRequest(inputs=[], requested_output_names=["O"], model_name="m", **more)


def described(made):
    return [made.request_id(), made.correlation_id(), made.flags(), made.timeout(), made.parameters()]


def set_flags():
    made = request(request_id="r", correlation_id=5, flags=1, timeout=9, parameters={"a": 1, "b": "x", "c": True})
    before = described(made)
    made.set_flags(3)
    return [before, made.flags()]


def bytes_tensors():
    array = np.array([b"ab", b"", "grüß".encode()], dtype=object)
    raw = pb_utils.serialize_byte_tensor(array)
    back = pb_utils.deserialize_bytes_tensor(raw.item() if hasattr(raw, "item") else raw)
    return [type(raw).__name__, [item.hex() for item in back], str(back.dtype), list(back.shape)]


def errors():
    plain, coded = pb_utils.TritonError("a"), pb_utils.TritonError("b", pb_utils.TritonError.NOT_FOUND)
    response = pb_utils.InferenceResponse(error=coded)
    empty = pb_utils.InferenceResponse([])
    return [
        plain.message(), coded.message(), plain.code() == pb_utils.TritonError.INTERNAL, coded.code() != plain.code(),
        response.has_error(), response.error().message(), empty.has_error(), repr(empty.error()),
        len(empty.output_tensors()), issubclass(pb_utils.TritonModelException, Exception),
    ]  # fmt: skip


def response():
    made = pb_utils.InferenceResponse([pb_utils.Tensor("A", np.arange(2)), pb_utils.Tensor("B", np.ones(1))])
    found = pb_utils.get_output_tensor_by_name(made, "B")
    return [
        [tensor.name() for tensor in made.output_tensors()],
        found.as_numpy().tolist(),
        repr(pb_utils.get_output_tensor_by_name(made, "C")),
    ]


class TritonPythonModel:
    def initialize(self, args):
        self.config = json.loads(args["model_config"])

    def execute(self, requests):
        return [said(getattr(self, what(requests[0]))())]

    def missing(self):
        return [name for name in NAMES if not hasattr(pb_utils, name)]

    def constants(self):
        return {name: getattr(pb_utils, name) for name in NAMES if name.startswith("TRITONSERVER_RE")}

    def numpy_types(self):
        return {name: numpy_name(name) for name in TYPES}

    def type_numbers(self):
        kinds = (np.bool_, np.uint8, np.uint16, np.uint32, np.uint64, np.int8, np.int16, np.int32, np.int64)
        kinds += (np.float16, np.float32, np.float64, np.object_, np.bytes_)
        return [int(pb_utils.numpy_to_triton_type(item)) for item in kinds]

    def numpy_of_numbers(self):
        return [round_trip(code) for code in range(1, 14)]

    def configs(self):
        return [
            pb_utils.get_input_config_by_name(self.config, "WHAT"),
            pb_utils.get_output_config_by_name(self.config, "TEXT"),
            pb_utils.get_input_config_by_name(self.config, "TEXT"),
            pb_utils.using_decoupled_model_transaction_policy(self.config),
        ]

    def request_defaults(self):
        made = request()
        return [*described(made), sorted(made.requested_output_names()), made.inputs()]

    def request_given(self):
        return [set_flags(), request(correlation_id="text").correlation_id()]

    def request_refused(self):
        return [
            outcome(request, parameters={"f": 1.5}),
            kind(request, parameters="text"),
            kind(request, correlation_id=-1),
            kind(request, inputs=None),
            kind(pb_utils.InferenceRequest, requested_output_names=[], model_name="m"),
            kind(pb_utils.InferenceRequest, inputs=[], model_name="m"),
            kind(pb_utils.InferenceRequest, inputs=[], requested_output_names=[]),
        ]

    def bytes_tensors(self):
        return bytes_tensors()

    def errors(self):
        return errors()

    def response(self):
        return response()

    def logger(self):
        pb_utils.Logger.log_info("info")
        pb_utils.Logger.log("plain", pb_utils.Logger.INFO)
        pb_utils.Logger.log_warn("warn")
        pb_utils.Logger.log_error("error")
        pb_utils.Logger.log_verbose("verbose")
        return [kind(pb_utils.Logger.log, 5), kind(pb_utils.Logger.log_info)]

    def directory(self):
        return [pb_utils.get_model_dir(), __name__]
