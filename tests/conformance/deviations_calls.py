"""Where we answer otherwise than tritonserver 2.51 on purpose, in what every call and route is asked."""

from __future__ import annotations

from .deviation import Deviation

_BAD = (400,)

_NO_NAME = Deviation(
    "The real server opens whatever the key leads to.",
    (400, "INVALID_ARGUMENT"),
    r"cannot register shared memory region 'r' with key '.*': it is no name of shared memory",
)
_NAMELESS = Deviation(
    "The real server takes a region without a name.",
    ("INVALID_ARGUMENT",),
    "'region name' is necessary to register (system|cuda) shared memory region",
)
_NO_HANDLE = Deviation(
    "We say that a handle is none; the real server, that it could not be opened.",
    ("INVALID_ARGUMENT",),
    "'raw_handle' must be a valid cudaIpcMemHandle_t of 64 bytes, got 0",
)
_ONE_KEY = Deviation("The real server can map a file only once: it has closed it by the second time.", (200,))
_ODD = Deviation("The real server maps whole pages only.", (200, "OK"))
_NOTHING = Deviation(
    "For the real server no bytes end before they begin. We say what is missing.",
    (400, 500),
    r"(\[request id: <id_unknown>\] input byte size mismatch for input 'INPUT0' for model 'identity_int32'\. "
    r"Expected 8, got 0|shared memory size specified with the request for output 'OUTPUT0' \(0 bytes\) should be at "
    "least 8 bytes to hold the results)",
)
_NULL = Deviation("A member that is null is an error in the real server; for us it is absent.", (200,))
_NO_GPU = Deviation(
    "We say what a build of the real server without CUDA says, and why no GPU can be used.",
    (400, "INVALID_ARGUMENT"),
    "failed to register CUDA shared memory region: 'c', GPUs not supported: .+",
)
_FIELD = Deviation(
    "An empty field, blanks around it, and two fields mean what HTTP says they do (RFC 9110 5.5, 5.3).", (200, 501)
)
_LENGTH = Deviation(
    "(release 2.73) A length that is not a number is refused; 2.51 reads the digits in front.",
    _BAD,
    r"Unable to parse Inference-Header-Content-Length, got: .*",
)
_CLASSES = Deviation("A number of classes beyond 2^32 wraps in the real server.", (200, "OK"), "")
_READY = Deviation(
    "(release 2.73) A wrong type in the body is the client's mistake.",
    _BAD,
    "Invalid value for 'ready': expected a boolean",
)
_TEXT = Deviation(
    "The real server does not look whether texts are UTF-8, as JSON asks for.",
    _BAD,
    r"failed to parse the request JSON buffer: Invalid encoding in string\. at 5",
)
_UNLOAD_BODY = Deviation("The real server does not read the body of an unload. We refuse one that is wrong.", _BAD)
_LEVEL = Deviation("A verbose level of 2^31 and more wraps in the real server; for us it is the most.", (200, "OK"))
_LOG_UNKNOWN = Deviation(
    "The real server passes over log settings that it does not know. We refuse them, so that a slip is seen.",
    ("INVALID_ARGUMENT",),
    "unknown log setting ''",
)
_LOG_KIND = Deviation(
    "The real server does not say which log setting is of another kind.", (400, 500), r"Unable to parse 'log_\w+': .*"
)
_NUMBER = Deviation(
    "The real server reads the digits in front of what is no number, behind blanks too; -1 becomes 4294967295.",
    (400, "INVALID_ARGUMENT"),
    r"Unable to parse '(trace_rate|log_frequency)'.*",
)
_MOST = Deviation("The real server takes the greatest rate of its own range for one beyond it.", (200,))
_UNKNOWN = Deviation(
    "The real server passes over a trace level or setting that it does not know.",
    (400, "INVALID_ARGUMENT"),
    r"unknown trace (level|setting) '\w+'(, expected OFF, TIMESTAMPS or TENSORS)?",
)
_GARBAGE = Deviation("The real server says nothing about a message on a stream that it cannot read.", ("INTERNAL",))
_REASON = Deviation(
    "The real server keeps the reason to its log. We add it behind the same sentence.",
    ("INTERNAL",),
    r"failed to load 'first', failed to poll from model repository: .+",
)
_LONG = Deviation(
    "A word of more than 200 characters is cut in the text of an error.",
    (500,),
    r"failed to load 'n{100,200}\.\.\., failed to poll from model repository",
)
_PATH = Deviation(
    "Names of models are no paths, whatever lies there.",
    ("INVALID_ARGUMENT",),
    r"invalid model name '.*', model name must not contain path traversal characters",
)
_BLANK = Deviation(
    "A name of blanks is none.", ("INVALID_ARGUMENT",),
    r"Model name cannot be empty\. Please enter a valid name to deploy\.",
)  # fmt: skip

_SILENT = Deviation("The real server's error has no text.", (400, 404), "Bad Request|model '.+' is not loaded")
_PLAIN = Deviation("The real server calls its JSON plain text.", (200,), "")
_SIZE = Deviation(
    "The real server takes a body for a raw tensor whose JSON has a size that is none.",
    _BAD,
    "Unable to parse json-header-size, got: x?",
)
_CODED = Deviation("The real server does not look whether a body of these calls is compressed.", (200, 501))
_RESERVED = Deviation(
    "(release 2.73) Headers with the names of the protocol's own parameters are refused.",
    (400, "INVALID_ARGUMENT"),
    r"Header '\w+' is reserved for Triton usage and cannot be forwarded\.",
)
_RESERVED_ON_STREAM = Deviation(_RESERVED.why, ("OK",))
_GENERATED = Deviation("The real server forwards no headers of generate calls.", (200, 400))
_ONCE = Deviation("The real server gives a parameter of body and header twice; the header's counts.", (200, "OK"), "")
_UNSERVED = "A model that has no version to serve is in the index all the same, with the reason."
_GONE = '{"name": "first", "reason": "unloaded", "state": "UNAVAILABLE", "version": "1"}'
_THERE = '{"name": "first", "state": "READY", "version": "1"}'

CALL_DEVIATIONS: dict[str, Deviation] = {
    # Regions
    "regions-register-same-key": _ONE_KEY,
    "regions-register-odd-offset": _ODD,
    "regions-grpc-register-odd-offset": _ODD,
    "regions-in-unaligned": _ODD,
    "regions-register-key-empty": _NO_NAME,
    "regions-register-key-slashes": _NO_NAME,
    "regions-register-key-nested": _NO_NAME,
    "regions-grpc-register-no-key": _NO_NAME,
    **{
        f"calls-{kind}sharedmemoryregister-{name}": _NAMELESS
        for kind in ("system", "cuda") for name in ("empty", "unknown-field", "number")
    },
    "calls-cudasharedmemoryregister-plain": _NO_HANDLE,
    "calls-cudasharedmemoryregister-gzip": _NO_HANDLE,
    "regions-in-offset-null": _NULL,
    "regions-in-size-zero": _NOTHING,
    "regions-in-no-size": _NOTHING,
    "regions-out-size-zero": _NOTHING,
    "regions-out-no-size": _NOTHING,
    "regions-cuda-register-no-gpu": _NO_GPU,
    "regions-grpc-cuda-register": _NO_GPU,
    "regions-grpc-cuda-register-device": _NO_GPU,
    # Headers and bodies
    "routes-infer-encoding-empty": _FIELD,
    "routes-infer-encoding-spaces": _FIELD,
    "routes-infer-encoding-twice": _FIELD,
    "routes-infer-length-inside-space": _LENGTH,
    "routes-infer-length-comma": _LENGTH,
    "routes-class-null": _NULL,
    "routes-class-uint32-over": _CLASSES,
    "calls-class-uint32-over": _CLASSES,
    "routes-index-ready-null": _NULL,
    "routes-index-ready-number": _READY,
    "routes-index-not-utf8": _TEXT,
    "routes-load-not-utf8": _TEXT,
    "routes-unload-not-utf8": _UNLOAD_BODY,
    "routes-unload-trailing": _UNLOAD_BODY,
    # Settings
    "operations-logging-level-over-uint32": _LEVEL,
    "calls-log-verbose-most": _LEVEL,
    "calls-log-name-empty": _LOG_UNKNOWN,
    **{
        f"operations-logging-{name}": _LOG_KIND
        for name in ("level-negative", "level-float", "level-bool", "level-over-uint64", "info-number", "warning-list",
                     "error-object", "format-number", "one-of-two-wrong")
    },
    "calls-trace-rate-negative": _NUMBER,
    "calls-trace-rate-space": _NUMBER,
    "calls-trace-frequency-negative": _NUMBER,
    "trace-more-rate-space": _NUMBER,
    "trace-more-frequency-negative": _NUMBER,
    "trace-more-rate-most": _MOST,
    "calls-trace-level-case": _UNKNOWN,
    "trace-more-level-case": _UNKNOWN,
    "trace-model-unknown": _UNKNOWN,
    # Streams
    "calls-stream-not-utf8": _GARBAGE,
    "calls-stream-cut": _GARBAGE,
    # Front doors of clouds
    **dict.fromkeys(
        ("sagemaker-ping-slash", "sagemaker-invocations-slash", "sagemaker-other-root", "sagemaker-other-v2",
         "sagemaker-other-health", "sagemaker-other-case", "sagemaker-model-unknown", "sagemaker-model-of-repository",
         "sagemaker-invoke-unknown", "sagemaker-unload-unknown", "vertex-health-slash", "vertex-predict-slash",
         "vertex-other-root", "vertex-other-v2", "vertex-other-ready", "vertex-other-case", "vertex-redirect-unknown",
         "vertex-redirect-empty", "vertex-redirect-slash"),
        _SILENT,
    ),
    "sagemaker-models": _PLAIN,
    "sagemaker-models-after": _PLAIN,
    "sagemaker-load-no-folder": Deviation("The real server shows the path.", _BAD, "there is no folder at the url"),
    **{
        f"{call}-{name}": found
        for call in ("sagemaker-invocations", "vertex-predict")
        for name, found in (
            ("binary-size-text", _SIZE), ("binary-size-empty", _SIZE), ("gzip", _CODED), ("encoding-unknown", _CODED),
        )
    },
    # Headers that become parameters
    **{
        f"forwarded-{protocol}reserved-{name}": _RESERVED
        for protocol in ("", "grpc-")
        for name in ("priority", "timeout", "sequence-id", "sequence-start", "sequence-end", "triton-x", "headers",
                     "binary-data-output")
    },
    "forwarded-grpc-stream-reserved": _RESERVED_ON_STREAM,
    "forwarded-generate": _GENERATED,
    "forwarded-generate-reserved": _GENERATED,
    "forwarded-empty": Deviation("The real server makes a blank of an empty value.", (200,), ""),
    "forwarded-and-body": _ONCE,
    "forwarded-grpc-and-body": _ONCE,
    "forwarded-grpc-two": Deviation("The real server puts metadata in the order of its names.", ("OK",), ""),
    # Model control
    "control-unload-parameter-dependents-number": _UNLOAD_BODY,
    "control-grpc-load-config-text-empty": _REASON,
    "control-load-name-long": _LONG,
    "control-index-at-end": Deviation(_UNSERVED, instead=((_GONE, f'{_GONE}, {{"name": "no_version"}}'),)),
    "broken-index": Deviation(_UNSERVED, instead=((_THERE, f'{_THERE}, {{"name": "no_version"}}'),)),
    "control-grpc-load-name-dots": _PATH,
    "control-grpc-load-name-slash": _PATH,
    "control-grpc-load-name-absolute": _PATH,
    "control-grpc-load-name-space": _BLANK,
}  # fmt: skip
