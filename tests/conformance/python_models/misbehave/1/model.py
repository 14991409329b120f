"""Returns and raises what it should not; the input WHAT says what."""

import numpy as np
import triton_python_backend_utils as pb_utils
from helpers import floats, kind, outcome, text, what

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
CODES = ("UNKNOWN", "INTERNAL", "NOT_FOUND", "INVALID_ARG", "UNAVAILABLE", "UNSUPPORTED", "ALREADY_EXISTS", "CANCELLED")


class NoTextError(Exception):
    pass


def chained():
    try:
        raise ValueError("inner")
    except ValueError as problem:
        raise RuntimeError("outer") from problem


def deeper():
    np.zeros(2).reshape(3)


def error(message, *code):
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, *code))


def sends(request, *sends):
    """Tries each send in turn; the outcomes are kept for the next request, which asks for the log."""
    sender = request.get_response_sender()
    return [outcome(sender.send, *arguments) for arguments in sends]


class TritonPythonModel:
    def initialize(self, args):
        self.log = []

    def execute(self, requests):
        request = requests[0]
        word = what(request)
        if word.startswith("code_"):
            name = word.removeprefix("code_")
            return [error(f"the text of {name}", getattr(pb_utils.TritonError, name))]
        return getattr(self, word)(request)

    def good(self, request):
        return [text("good")]

    def asked_log(self, request):
        log, self.log = self.log, []
        return [text(*map(str, log), "end of log")]

    # What execute returns

    def tuple(self, request):
        return (text("x"),)

    def string(self, request):
        return "responses"

    def array(self, request):
        return np.zeros(1)

    def dictionary(self, request):
        return {"TEXT": 1}

    def wrong_element(self, request):
        return ["x"]

    def too_many(self, request):
        return [text("a"), text("b")]

    def too_few(self, request):
        return []

    # What execute raises

    def value_error(self, request):
        raise ValueError("bad value")

    def multi_line(self, request):
        raise RuntimeError('first line\nsecond "line"\twith a tab')

    def not_ascii(self, request):
        raise RuntimeError("schlägt fehl: 失敗")

    def empty_message(self, request):
        raise NoTextError

    def key_error(self, request):
        return {}["key"]

    def chained(self, request):
        chained()

    def deeper(self, request):
        deeper()

    def keyboard_interrupt(self, request):
        raise KeyboardInterrupt("by hand")

    def model_exception(self, request):
        raise pb_utils.TritonModelException("from the API")

    # Error responses

    def plain_error(self, request):
        return [error("plain text")]

    def empty_error(self, request):
        return [error("")]

    def error_and_tensors(self, request):
        return [pb_utils.InferenceResponse([floats(1)], pb_utils.TritonError("error beside tensors"))]

    def error_as_text(self, request):
        return [text(kind(pb_utils.InferenceResponse, error="text"))]

    def error_not_ascii(self, request):
        return [error('schlägt "fehl"\n失敗')]

    def response_of_strings(self, request):
        return [text(kind(pb_utils.InferenceResponse, ["x"]))]

    # The response sender in default mode

    def sent_and_none(self, request):
        self.log = sends(request, (text("sent"), FINAL))
        return [None]

    def sent_and_returned(self, request):
        self.log = sends(request, (text("sent"), FINAL))
        return [text("returned")]

    def sent_twice(self, request):
        self.log = sends(request, (text("sent"), FINAL), (text("again"), FINAL))
        return [None]

    def sent_without_response(self, request):
        self.log = sends(request, (None, FINAL), (text("sent"), FINAL))
        return [None]

    def sent_nothing(self, request):
        self.log = sends(request, (), (text("sent"), FINAL))
        return [None]

    def sent_error(self, request):
        self.log = sends(request, (error("sent error"), FINAL))
        return [None]
