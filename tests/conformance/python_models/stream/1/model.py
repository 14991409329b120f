"""Decoupled: does what the words of SCRIPT say, one after the other."""

import threading
import time

import numpy as np
import triton_python_backend_utils as pb_utils
from helpers import kind, outcome

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


def response(word, number=0):
    text = pb_utils.Tensor("TEXT", np.array([word.encode()], dtype=object))
    return pb_utils.InferenceResponse([text, pb_utils.Tensor("INDEX", np.array([number], dtype=np.int32))])


def error(text):
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(text, pb_utils.TritonError.UNAVAILABLE))


class TritonPythonModel:
    def initialize(self, args):
        self.log = []
        self.threads = []

    def execute(self, requests):
        for request in requests:
            words = [word.decode() for word in pb_utils.get_input_tensor_by_name(request, "SCRIPT").as_numpy()]
            sender = request.get_response_sender()
            if words and words[0] == "thread":
                self.threads.append(threading.Thread(target=self.run, args=(request, sender, words[1:])))
                self.threads[-1].start()
            elif "list" in words:
                self.run(request, sender, [word for word in words if word != "list"])
                return [response("in a list")]
            else:
                self.run(request, sender, words)
        return None

    def run(self, request, sender, words):
        for number, word in enumerate(words):
            head, _, tail = word.partition(" ")
            getattr(self, head)(request, sender, tail, number)

    def say(self, request, sender, tail, number):
        sender.send(response(tail, number))

    def close(self, request, sender, tail, number):
        sender.send(response(tail, number), flags=FINAL)

    def final(self, request, sender, tail, number):
        sender.send(flags=FINAL)

    def count(self, request, sender, tail, number):
        for index in range(int(tail)):
            sender.send(response(f"{index}", index))

    def error(self, request, sender, tail, number):
        sender.send(error(tail))

    def close_error(self, request, sender, tail, number):
        sender.send(error(tail), flags=FINAL)

    def empty(self, request, sender, tail, number):
        sender.send(pb_utils.InferenceResponse([]))

    def other_sender(self, request, sender, tail, number):
        request.get_response_sender().send(response(tail, number))

    def fail(self, request, sender, tail, number):
        raise RuntimeError(tail)

    def sleep(self, request, sender, tail, number):
        time.sleep(float(tail))

    def refused(self, request, sender, tail, number):
        """Sends what is refused, and keeps the texts."""
        self.log += [outcome(sender.send), outcome(sender.send, None), kind(sender.send, "text")]

    def after_final(self, request, sender, tail, number):
        self.log += [outcome(sender.send, response("late")), outcome(sender.send, flags=FINAL)]

    def await_cancel(self, request, sender, tail, number):
        """Waits until the client is gone, at most the seconds given."""
        deadline = time.monotonic() + float(tail)
        while not request.is_cancelled() and time.monotonic() < deadline:
            time.sleep(0.01)
        self.log += [str(request.is_cancelled()), str(sender.is_cancelled())]

    def join(self, request, sender, tail, number):
        for thread in self.threads:
            thread.join()
        self.threads.clear()

    def tell(self, request, sender, tail, number):
        """Answers with the log."""
        log, self.log = self.log, []
        sender.send(response("; ".join(map(str, log)), number))

    def parameters(self, request, sender, tail, number):
        sender.send(
            response(f"{request.request_id()} {request.parameters()} {sorted(request.requested_output_names())}")
        )
