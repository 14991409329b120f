"""Where Python models answer otherwise than on tritonserver 2.51 on purpose: what we answer, and why."""

from __future__ import annotations

from .deviation import Deviation

_CODE_LOST = (
    "(release 2.73) An error that a model gets from another one keeps its code; in 2.51 it is always INTERNAL."
)
_CODED = Deviation(_CODE_LOST, (404,))
_GENERATE = "(release 2.73) An error of generate has the status of its code; in 2.51 it is always 400."
_COUNT = Deviation(
    "The real server answers 200 with an error where a model gives generate no response or several.",
    (500,),
    "generate expects model to produce exactly 1 response, use generate stream for model that generates various "
    "number of responses",
)
_ID = Deviation(
    "The real server hands the member `id` of a generate request to the model as its id and as a parameter too.",
    instead=(('{\\"id\\":\\"the id\\"}', "{}"),),
)
_NEST = Deviation(
    "The real server flattens lists in lists; we take a value or a list of values.",
    (400,),
    "The schema can not convert input 'PROMPT' to tensor with proper shape",
)
_OBJECT = Deviation("An object is no value of a tensor: we word it so.", (400, 500))
_MISSING = Deviation(
    "The real server only counts inputs: an optional one makes up for a required one.",
    (400,),
    r"\[request id: <id_unknown>\] expected number of inputs between 1 and 2 but got 1 inputs for model 'gen'\. "
    r"Got input\(s\) \['COUNT'\], but missing required input\(s\) \['PROMPT'\]\. "
    r"Please provide all required input\(s\)\.",
)


def _status(status: int) -> Deviation:
    return Deviation(_GENERATE, (status,))


_UNREAD = "failed to run warmup sample 's': "
_OF = r" \(in 'inputs' of model_warmup sample 's' of model '.*'\)"


def _warm(name: str, reason: str) -> Deviation:
    return Deviation(
        "Behind the real server's text, or around it, we say which sample, input and instance it was.",
        (400,),
        f"load failed for model 'warm_{name}': version 1 is at UNAVAILABLE state: Invalid argument: {reason};\n",
    )


def _warm_config(name: str, reason: str) -> Deviation:
    return Deviation(
        "We say which sample it was, and that it stands in the config.",
        (400,),
        rf"load failed for model 'warm_{name}': version 1 is at UNAVAILABLE state: Invalid argument: {reason} "
        rf"model_warmup sample 's' of model 'warm_{name}'.*\(in config\.pbtxt\);\n",
    )


PYTHON_DEVIATIONS: dict[str, Deviation] = {
    "python-make-not_utf8": Deviation(
        "The real server writes the bytes into the JSON as they are, which no JSON parser takes. "
        "We ask for the binary format.",
        (400,),
    ),
    "python-make-duplicate": Deviation(
        "The real server sends an output twice when the model gives it twice.",
        (500,),
        "model 'make' gave output 'MORE' more than once|output 'MORE' is twice in a response",
    ),
    "python-bls-error_handed_on": _CODED,
    "python-bls-error_as_own": _CODED,
    "python-bls-async-fails": Deviation(
        "The real server's traceback of a coroutine has the innermost frame only.",
        instead=(("model.py(41): fails\\n", "model.py(41): fails\\n  model.py(23): execute\\n"),),
    ),
    "python-stats-stream-async": Deviation(
        "The real server has no statistics of responses for Python models.",
        instead=(
            (
                '"response_stats": {}',
                '"response_stats": {"0": {"cancel": {"count": 0, "ns": "zero"}, "compute_infer": {"count": 3, "ns": '
                '"time"}, "compute_output": {"count": 3, "ns": "time"}, "empty_response": {"count": 0, "ns": "zero"}, '
                '"fail": {"count": 0, "ns": "zero"}, "success": {"count": 3, "ns": "time"}}}',
            ),
        ),
    ),
    "python-stats-batched": Deviation(
        "The real server counts a response with an error as a success; we count it as failed.",
        instead=(
            ('"count": 12', '"count": 11'),
            ('"inference_count": 12', '"inference_count": 11'),
            ('"fail": {"count": 6', '"fail": {"count": 7'),
        ),
    ),
    "python-generate-id": _ID,
    "python-generate-stream-id": _ID,
    "python-generate-missing-input": _MISSING,
    "python-generate-stream-missing-input": _MISSING,
    "python-generate-nested-list": _NEST,
    "python-generate-stream-nested-list": _NEST,
    "python-generate-object-for-text": _OBJECT,
    "python-generate-stream-object-for-text": _OBJECT,
    "python-generate-decoupled-none": _COUNT,
    "python-generate-decoupled-several": _COUNT,
    "python-generate-fails": _status(500),
    "python-generate-stream-fails": _status(500),
    "python-generate-decoupled-error": _status(503),
    "python-generate-stream-decoupled-error-first": _status(503),
    "python-generate-stream-decoupled-fails": _status(500),
    "python-life-warm-statistics": Deviation(
        "The real server counts warm-up as requests, against its documentation.",
        instead=(
            (
                ', {"batch_size": 3, "compute_infer": {"count": 2, "ns": "time"}, "compute_input": {"count": 2, "ns": '
                '"time"}, "compute_output": {"count": 2, "ns": "time"}}',
                "",
            ),
            ('"count": 2', '"count": 1'),
            ('"count": 8', '"count": 1'),
            ('"inference_count": 8', '"inference_count": 1'),
            ('"execution_count": 4', '"execution_count": 1'),
        ),
    ),
    "python-life-load-warm_refuses": _warm("refuses", r"failed to run warmup sample 's': not today \(on instance .*\)"),
    "python-life-load-warm_short": _warm("short", _UNREAD + (
        r"warmup setting expects 8 bytes, but the data provided from short only has 4 bytes" + _OF
    )),
    "python-life-load-warm_missing": _warm("missing", _UNREAD + (
        r"failed to open warm_missing/warmup/nobody of input 'WHAT': No such file or directory" + _OF
    )),
    "python-life-load-warm_type": _warm("type", _UNREAD + (
        r"\[request id: <id_unknown>\] inference input 'X' data-type is 'INT32', but model 'warm_type' expects 'FP32'"
        + _OF
    )),
    "python-life-load-warm_dims": _warm_config(
        "dims", "warmup setting expects all variable-size dimensions are specified for input 'WHAT' in"
    ),
    "python-life-load-warm_no_data": _warm_config(
        "no_data", "warmup setting expects input 'WHAT' to have input_data_type set in"
    ),
    "sequence-text-for-number": Deviation(
        "(release 2.73) A text as correlation id where the model expects a number is refused; 2.51 takes its bytes.",
        (400,),
        "sequence batching control 'CORRID' data-type is 'BYTES', but model 'direct' expects 'UINT64'",
    ),
    "sequence-int32-id-over": Deviation(
        "A correlation id that does not fit the control wraps in the real server: the model takes it for another one.",
        (400,),
        "correlation ID 2147483653 does not fit in sequence batching control 'ID' of model 'small', which is 'INT32'",
    ),
    "sequence-iterative-id": Deviation(
        "Each request of an iterative model is a sequence of its own, also where it brings a correlation id.",
        (200,),
        "",
    ),
    "python-life-load-no_execute": Deviation(
        "The real server finds out at the first request that there is no `execute`; we refuse the model.",
        (400,),
        r"load failed for model 'no_execute': version 1 is at UNAVAILABLE state: Internal: Python model .*model\.py "
        r"does not implement `execute` method\.;\n",
    ),
    "python-life-index": Deviation(
        "The same: the model is not there.",
        instead=(
            (
                '{"name": "no_execute", "state": "READY", "version": "1"}',
                '{"name": "no_execute", "reason": "given", "state": "UNAVAILABLE", "version": "1"}',
            ),
        ),
    ),
}
