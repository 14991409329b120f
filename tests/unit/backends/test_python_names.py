"""Every name of the real modules is there, in the server and in a worker, or says why not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from python_stage import request, stage, write

# Of tritonserver 2.51, as `dir` gave them there, and what is newer. Classes have their methods and constants.
CONSTANTS = """TRITONSERVER_MEMORY_CPU TRITONSERVER_MEMORY_GPU TRITONSERVER_REQUEST_FLAG_SEQUENCE_START
    TRITONSERVER_REQUEST_FLAG_SEQUENCE_END TRITONSERVER_REQUEST_RELEASE_ALL TRITONSERVER_REQUEST_RELEASE_RESCHEDULE
    TRITONSERVER_RESPONSE_COMPLETE_FINAL TRITON_STRING_TO_NUMPY"""
FUNCTIONS = """deserialize_bytes_tensor serialize_byte_tensor get_input_config_by_name get_output_config_by_name
    get_input_tensor_by_name get_output_tensor_by_name get_model_dir is_model_ready load_model unload_model
    numpy_to_triton_type triton_string_to_numpy triton_to_numpy_type using_decoupled_model_transaction_policy"""
CLASSES = {
    "InferenceRequest": "async_exec correlation_id exec flags get_response_sender inputs is_cancelled parameters "
    "request_id requested_output_names set_flags set_release_flags timeout trace",
    "InferenceResponse": "error has_error output_tensors parameters",
    "Logger": "ERROR INFO LogLevel VERBOSE WARNING log log_error log_info log_verbose log_warn",
    "MetricFamily": "COUNTER GAUGE HISTOGRAM Metric MetricKind",
    "ModelConfig": "add_input add_output as_dict set_dynamic_batching set_max_batch_size "
    "set_model_transaction_policy",
    "PreferredMemory": "",
    "Tensor": "__dlpack__ __dlpack_device__ as_numpy from_dlpack is_cpu name shape to_dlpack triton_dtype",
    "TritonError": "ALREADY_EXISTS CANCELLED INTERNAL INVALID_ARG NOT_FOUND UNAVAILABLE UNKNOWN UNSUPPORTED code "
    "message",
    "TritonModelException": "args",
}
C_CLASSES = {
    "InferenceResponseSender": "is_cancelled send",
    "InferenceTrace": "get_context",
    "MemoryType": "TRITONSERVER_MEMORY_CPU TRITONSERVER_MEMORY_GPU",
    "Metric": "increment observe set value",
    "MetricKind": "COUNTER GAUGE HISTOGRAM",
    "ResponseIterator": "__iter__ __next__ cancel",
}
BOTH = ("InferenceRequest", "InferenceResponse", "Logger", "MetricFamily", "PreferredMemory", "Tensor", "TritonError",
        "TritonModelException", "is_model_ready", "load_model", "unload_model")  # fmt: skip
LOOKS = f"""
import json, types
import c_python_backend_utils as c
class TritonPythonModel:
    def execute(self, requests):
        missing = []
        def look(module, classes):
            for name, members in classes.items():
                found = getattr(module, name, None)
                missing.extend([name] if found is None else [f"{{name}}.{{m}}" for m in members.split()
                                                             if not hasattr(found, m)])
        look(pb_utils, {CLASSES!r})
        look(c, {C_CLASSES!r})
        look(pb_utils, dict.fromkeys({CONSTANTS.split() + FUNCTIONS.split()!r}, ""))
        missing += [name for name in {BOTH!r} if getattr(c, name, 1) is not getattr(pb_utils, name, 2)
                    and not isinstance(getattr(c, name, 1), types.MethodType)]
        for name in ("np", "json", "struct"):
            if not isinstance(getattr(pb_utils, name, None), types.ModuleType):
                missing.append(name)
        if (c.COUNTER, c.GAUGE, c.HISTOGRAM) != tuple(pb_utils.MetricFamily.MetricKind):
            missing.append("kinds")
        for name in ("SharedMemory", "shared_memory", "async_event_future_done_callback"):
            try:
                missing.append(str(getattr(c, name)))
            except AttributeError as error:
                if "stub processes of Triton's Python backend" not in str(error):
                    missing.append(str(error))
        text = np.array([json.dumps(missing)], np.object_)
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", text)]) for _ in requests]
"""
IO = """
    input { name: "IN" data_type: TYPE_FP32 dims: -1 }
    output { name: "OUT" data_type: TYPE_STRING dims: 1 }
"""


def test_all_names_are_there(tmp_path: Path) -> None:
    write(tmp_path, "local", LOOKS, IO)
    write(tmp_path, "isolated", LOOKS, IO + 'parameters { key: "ISOLATION" value { string_value: "process" } }')
    with stage(tmp_path) as server:
        for name in ("local", "isolated"):
            found = server.infer(request(name, IN=np.zeros(1, np.float32)))["OUT"]
            assert json.loads(found[0]) == [], name
