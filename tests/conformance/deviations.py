"""Where we answer otherwise than tritonserver 2.51 on purpose: what we answer, and why.

Every entry is also a row of docs/compatibility.md; a test keeps the two together.
"""

from __future__ import annotations

import re

from .deviation import Deviation
from .deviations_calls import CALL_DEVIATIONS
from .deviations_ensembles import ENSEMBLE_DEVIATIONS
from .deviations_python import PYTHON_DEVIATIONS
from .deviations_scheduling import SCHEDULING_DEVIATIONS
from .normalise import canonical
from .wire import Answer

_UNKNOWN_ID = r"\[request id: <id_unknown>\] "
_BAD = (400,)

_WRAP_WHY = "A number that does not fit its datatype wraps in the real server: the model gets another number."
_WRAPS = Deviation(_WRAP_WHY, _BAD)
_TYPED_WRAPS = Deviation(_WRAP_WHY, ("INVALID_ARGUMENT",))
_NESTING = Deviation(
    "The real server flattens `data` of any nesting, so a client's mistake in a shape goes unseen. We take "
    "flat data or data nested as the shape says.",
    _BAD,
)
_DUPLICATE = "(release 2.73) A requested output named twice is refused; 2.51 answers it once."
_CORRUPT = Deviation(
    "The real server goes on with what it could decompress, at worst with nothing, which it then takes for a "
    "raw binary tensor. We say that the body is corrupt.",
    _BAD,
)
_UNCOMPRESSED = Deviation(
    "The real server compresses whatever is asked for. We compress what is large and shrinks: most clients offer to "
    "take compressed answers by default.",
    lacks="content-encoding",
)
_LENGTH = Deviation(
    "(release 2.73) A length that is not a number is refused; 2.51 reads the digits in front, and where "
    "there are none takes the JSON for a raw binary tensor.",
    _BAD,
    r"Unable to parse Inference-Header-Content-Length, got: .*",
)
_LENGTH_RANGE = Deviation(
    "(release 2.73) A length that does not fit is refused with its own message.",
    _BAD,
    r"Unable to parse Inference-Header-Content-Length, value is out of range .*",
)
_FRAMING = Deviation("The real server closes the connection without a word; we answer 400 first.", (400, "dropped"))
_GARBAGE = Deviation(
    "The real server says nothing about a message on a stream that it cannot read.", ("INTERNAL", "OK")
)
_LOG_KIND = Deviation(
    "The real server does not say which log setting is of another kind.", (400, 500), r"Unable to parse 'log_\w+': .*"
)
_LOG_UNKNOWN = Deviation(
    "The real server passes over log settings that it does not know. We refuse them, so that a slip is seen.",
    (400, "INVALID_ARGUMENT"), r"unknown log setting 'log_other'",
)  # fmt: skip
_NOT_BUILT = "Extensions that are not built yet are not listed."
_NUMBER = "The real server takes the digits in front of what is no number. We take a version or refuse it."
_DECODED = (
    "The real server does not decode percent-encoding, so a model whose name clients quote cannot be reached. "
    "We decode names once."
)
_NULL = "A member that is null is an error in the real server; for us it is absent, as code generators mean it."
_REASON = "The real server keeps the reason to its log. We add it behind the same sentence."
_UNLOAD_BODY = "The real server does not read the body of an unload. We refuse one that is wrong."


_TRACE_UNKNOWN = Deviation(
    "The real server passes over a trace level or setting that it does not know.",
    (400, "INVALID_ARGUMENT"),
    r"unknown trace (level|setting) '\w+'(, expected OFF, TIMESTAMPS or TENSORS)?",
)
_TRACE_NUMBER = Deviation(
    "The real server reads the digits in front of what is no number, and takes -1 for 4294967295.",
    _BAD,
    r"Unable to parse 'trace_rate'.*",
)


def _strict(code: str) -> Deviation:
    """With metadata triton_grpc_error an error ends the stream; 2.51 does so for errors of execution only."""
    why = "(release 2.73) With metadata `triton_grpc_error` a refused request ends the stream with its status."
    return Deviation(why, (code, "OK"))


_OVERRIDE = Deviation(_REASON, (500, "INTERNAL"), r"failed to load '\w+', failed to poll from model repository: .+")
_OVERRIDES = (
    "other-name", "not-json", "empty-text", "list", "number", "unknown-field", "wrong-type", "config-number",
    "files-without-config", "file-above", "file-above-inside", "file-without-path", "file-config-only",
    "file-without-config-unknown-model", "grpc-not-json", "grpc-file-without-config", "grpc-file-above",
)  # fmt: skip

DEVIATIONS: dict[str, Deviation] = {
    # Loads with a config or files of their own
    **{f"override-{name}": _OVERRIDE for name in _OVERRIDES},
    # Trace settings
    "operations-logging-text": _LOG_KIND,
    "operations-logging-text-level": _LOG_KIND,
    "operations-logging-unknown": _LOG_UNKNOWN,
    "operations-grpc-logging-unknown": _LOG_UNKNOWN,
    "trace-level-old-names": _TRACE_UNKNOWN,
    "trace-level-unknown": _TRACE_UNKNOWN,
    "trace-unknown": _TRACE_UNKNOWN,
    "trace-mode": _TRACE_UNKNOWN,
    "trace-grpc-level-unknown": _TRACE_UNKNOWN,
    "trace-grpc-unknown": _TRACE_UNKNOWN,
    "trace-rate-text-after": _TRACE_NUMBER,
    "trace-rate-negative": _TRACE_NUMBER,
    # JSON and typed numbers that do not fit their datatype
    "input-data-over-int32": _WRAPS,
    "uint8-over": _WRAPS,
    "uint16-over": _WRAPS,
    "uint32-over": _WRAPS,
    "int8-over": _WRAPS,
    "int16-under": _WRAPS,
    "grpc-typed-int8-over": _TYPED_WRAPS,
    "grpc-typed-uint8-over": _TYPED_WRAPS,
    # `data` nested otherwise than the shape
    "data-nested-differently": _NESTING,
    "data-nested-unevenly": _NESTING,
    "data-nested-too-deep": _NESTING,
    "input-data-whole-float": Deviation(
        "A whole number with a point is an error in the real server; some clients have no others.", (200,), ""
    ),
    "bool-number": Deviation("One and zero are all that some clients have for BOOL.", (200,), ""),
    "parameter-null": Deviation(_NULL, (200,), ""),
    "python-tell-parameter-null": Deviation(_NULL, (200,), ""),
    "json-inputs-null": Deviation(_NULL, _BAD, "Unable to parse 'inputs': attempt to access non-existing object .*"),
    "json-outputs-null": Deviation(_NULL, (200,), ""),
    "input-data-nested-101": Deviation(
        "(release 2.73) Nesting is limited to 100.",
        _BAD,
        r"Unable to parse 'data': JSON nesting depth exceeds maximum allowed limit \(100\)",
    ),
    "fp32-overflow": Deviation("A number beyond FP32 becomes infinity in the real server.", _BAD),
    # Sizes
    "input-shape-over-int64": Deviation(
        "The real server takes the dimension for a negative one and then stumbles over the data.",
        (400, 500),
    ),
    "grpc-shape-negative-batch": Deviation(
        "The real server takes batch size -1 for 4294967295 and complains about bytes.",
        ("INVALID_ARGUMENT",),
        _UNKNOWN_ID + r"All input dimensions should be specified for input 'INPUT0' "
        r"for model 'identity_int32', got \[-1,2\]",
    ),
    # Outputs and inputs
    "duplicate-output": Deviation(_DUPLICATE, _BAD, _UNKNOWN_ID + "output 'OUTPUT0' already exists in request"),
    "grpc-duplicate-output": Deviation(
        _DUPLICATE, ("INVALID_ARGUMENT",), _UNKNOWN_ID + "output 'OUTPUT0' already exists in request"
    ),
    "missing-required-of-optional": Deviation(
        "The real server only counts: an optional input makes up for a required one.",
        _BAD,
        _UNKNOWN_ID
        + r"expected number of inputs between 1 and 2 but got 1 inputs for model 'optional'\. "
        + r"Got input\(s\) \['INPUT1'\], but missing required input\(s\) \['INPUT0'\]\. "
        + r"Please provide all required input\(s\)\.",
    ),
    "grpc-raw-too-many": Deviation(
        "The real server ignores raw contents that belong to no input; we may refuse them.",
        ("INVALID_ARGUMENT", "OK"),
    ),
    "input-shape-empty": Deviation(
        "Shape and data contradict each other and the model: we name the first, the real server the second.",
        (400, 500),
    ),
    # Compression
    "deflate-raw-in": _CORRUPT,
    "gzip-corrupt": _CORRUPT,
    "gzip-not": _CORRUPT,
    "gzip-cut": _CORRUPT,
    "gzip-trailing": Deviation(
        "The real server ignores what follows the gzip stream. We may refuse it as corrupt.", (200, 400)
    ),
    "deflate-corrupt": _CORRUPT,
    "accept-gzip": _UNCOMPRESSED,
    "accept-deflate": _UNCOMPRESSED,
    "accept-both": _UNCOMPRESSED,
    "accept-weights": _UNCOMPRESSED,
    "accept-gzip-binary": _UNCOMPRESSED,
    "gzip-both-ways": _UNCOMPRESSED,
    # Header lengths and framing
    "header-length-text": _LENGTH,
    "header-length-empty": _LENGTH,
    "header-length-text-after": _LENGTH,
    "header-length-float": _LENGTH,
    "header-length-hex": _LENGTH,
    "header-length-underscore": _LENGTH,
    "header-length-plus": Deviation("A plus sign is no part of a length in HTTP; we may refuse it.", (200, 400)),
    "header-length-twice": Deviation(
        "The real server takes the first of two contradicting lengths. We refuse them.", _BAD
    ),
    "header-length-over-int": _LENGTH_RANGE,
    "header-length-over-uint64": _LENGTH_RANGE,
    "content-length-text": _FRAMING,
    "content-length-negative": _FRAMING,
    "content-length-over": _FRAMING,
    "chunk-size-bad": _FRAMING,
    "not-http": _FRAMING,
    "lower-case-method": Deviation(
        "The real server closes the connection. Methods are case sensitive: `get` is an unknown one.",
        (400, 405, "dropped"),
    ),
    # Texts
    "bytes-not-utf8-json": Deviation(
        "The real server writes the bytes into the JSON as they are, which no JSON parser takes. "
        "We ask for the binary format.",
        _BAD,
    ),
    "json-not-utf8": Deviation("The real server echoes the bytes in its error, which is then no JSON.", (400, 500)),
    "json-duplicate-inputs": Deviation(
        "A member given twice: the real server takes the first, we the last or none.", (200, 400)
    ),
    "json-bom": Deviation("The real server skips a byte order mark, which JSON does not allow.", (400, 500)),
    # Paths
    "model-metadata-escaped": Deviation(_DECODED, (200,)),
    "model-metadata-space": Deviation(_DECODED, (404,), "Request for unknown model: 'add sub' is not found"),
    "control-load-escaped-dots": Deviation(_DECODED, _BAD, "invalid model name '..', .*"),
    "control-load-escaped-slash": Deviation(_DECODED, _BAD, "invalid model name 'a/b', .*"),
    "query-string": Deviation("The target has a fragment, which clients keep to themselves (RFC 9112 3.2.1).", _BAD),
    "absolute-uri": Deviation("Both answer; ours may refuse a proxy's form of the request line.", (200, 400, 404)),
    # What the server says of itself and its models
    "root": Deviation("A page for people is there, unless --allow-page=false.", (200,)),
    "health-head": Deviation("The real server sends a body with its answer to HEAD.", (405,)),
    "server-metadata": Deviation(_NOT_BUILT, (200,)),
    "server-metadata-query": Deviation(_NOT_BUILT, (200,)),
    "http-1.0": Deviation(_NOT_BUILT, (200,)),
    "grpc-server-metadata": Deviation(_NOT_BUILT, ("OK",)),
    "grpc-unknown-method": Deviation("The real server gives no text.", ("UNIMPLEMENTED",)),
    "grpc-model-ready-version-suffix": Deviation(_NUMBER, ("INVALID_ARGUMENT",), or_real=True),
    "grpc-model-ready-version-float": Deviation(_NUMBER, ("INVALID_ARGUMENT",), or_real=True),
    "grpc-model-ready-version-space": Deviation(_NUMBER, ("INVALID_ARGUMENT",), or_real=True),
    # Repository
    "control-load-broken-config": Deviation(
        _REASON, (500,), "failed to load 'broken_config', failed to poll from model repository(: .*)?"
    ),
    "control-load-broken-name": Deviation(
        _REASON, (500,), "failed to load 'broken_name', failed to poll from model repository(: .*)?"
    ),
    "control-grpc-load-broken-config": Deviation(
        _REASON, ("INTERNAL",), "failed to load 'broken_config', failed to poll from model repository(: .*)?"
    ),
    "control-unload-dependents-text": Deviation(_UNLOAD_BODY, _BAD, or_real=True),
    "control-unload-bad-json": Deviation(_UNLOAD_BODY, _BAD, or_real=True),
    "index-ready-text": Deviation(
        "(release 2.73) A wrong type in the body is the client's mistake: 400 instead of 500.",
        _BAD,
        "Invalid value for 'ready': expected a boolean",
    ),
    "control-grpc-load-empty-name": Deviation(
        "(release 2.73) An empty name has its own message.",
        ("INVALID_ARGUMENT",),
        r"Model name cannot be empty\. Please enter a valid name to deploy\.",
    ),
    "control-load-broken-model": Deviation(
        "The reason is the backend's: a Python syntax error there, ONNX Runtime's message here.",
        _BAD,
        r"load failed for model 'broken_model': version 1 is at UNAVAILABLE state: Internal: .*;\n",
    ),
    "control-load-broken-scalar": Deviation(
        "We name the file at fault.",
        _BAD,
        r"load failed for model 'broken_scalar': version 1 is at UNAVAILABLE state: Invalid argument: model input "
        r"'INPUT0' cannot have empty reshape for non-batching model as scalar tensors are not supported for "
        r"broken_scalar( \(in config\.pbtxt\))?;\n",
    ),
    "zero-batch": Deviation("The real server counts no rows as one row; we answer no rows with no rows.", (200,), ""),
    # Streams
    "grpc-stream-garbage": _GARBAGE,
    "grpc-stream-strict-unknown-model": _strict("NOT_FOUND"),
    "grpc-stream-strict-validation": _strict("INVALID_ARGUMENT"),
    **CALL_DEVIATIONS,
    **PYTHON_DEVIATIONS,
    **ENSEMBLE_DEVIATIONS,
    **SCHEDULING_DEVIATIONS,
}


# Where a model's last answer ends its execution, the phase of the outputs may take no time at all.
# JSON of protobuf leaves a zero out.
_OUTPUT_PHASE = re.compile(r'("compute_output": {"count": "?[1-9]\d*"?)(?:, "ns": "zero")?}')


def _compared(answer: Answer) -> str:
    return _OUTPUT_PHASE.sub(r'\1, "ns": "time"}', canonical(answer))


# How the errors begin of the real server's JSON helper, which calls a client's mistake an internal error.
_JSON_MISTAKE = re.compile(
    r"failed to parse the request JSON buffer: |failed to get request params|Unable to parse |Unable to set |"
    r"attempt to |unexpected error on creating Triton parameter"
)


def _as_mistake(given: Answer, real: Answer) -> Answer:
    """The real answer with status 400 for 500 where what is wrong is the JSON of the request, and we say so."""
    document = real.get("json")
    text = document.get("error", "") if isinstance(document, dict) else ""
    if (given.get("status"), real.get("status")) == (400, 500) and _JSON_MISTAKE.match(text):
        return {**real, "status": 400}
    return real


def disagreement(case_id: str, given: Answer, real: Answer) -> str:
    """What is wrong with our answer, given the real server's; "" when nothing is."""
    real = _as_mistake(given, real)
    deviation = DEVIATIONS.get(case_id)
    if deviation is not None and deviation.lacks:
        headers = {name: value for name, value in real["headers"].items() if name != deviation.lacks}
        real, deviation = {**real, "headers": headers}, None
    wanted = _compared(real)
    for old, new in deviation.instead if deviation is not None else ():
        if old not in wanted:
            return f"{case_id}: the real server's answer has no {old}: {wanted}"
        wanted = wanted.replace(old, new)
    if deviation is not None and deviation.instead:
        deviation = None
    same = _compared(given) == wanted
    if deviation is None:
        return "" if same else f"{case_id}:\n  we answer {_compared(given)}\n  and not   {wanted}"
    if deviation.allows(given) or (same and deviation.or_real):
        return ""
    return f"{case_id}:\n  we answer {_compared(given)}\n  and not   {deviation}"
