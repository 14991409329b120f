"""Calls other models; the input WHAT says how."""

import asyncio
import threading

import numpy as np
import triton_python_backend_utils as pb_utils
from helpers import outcome, said, text, what

X = np.array([1, 2, 3], dtype=np.float32)


def request(model="inner", outputs=("Y",), inputs=None, mode=None, **more):
    tensors = [pb_utils.Tensor("X", X)] if inputs is None else inputs
    if mode is not None:
        tensors.append(pb_utils.Tensor("MODE", np.array([mode.encode()], dtype=object)))
    return pb_utils.InferenceRequest(model_name=model, requested_output_names=list(outputs), inputs=tensors, **more)


def described(response):
    """A response as JSON: its error's text, or its tensors in order."""
    if response.has_error():
        return {"error": response.error().message()}
    return [[tensor.name(), listed(tensor.as_numpy())] for tensor in response.output_tensors()]


def listed(array):
    return [item.decode() for item in array] if array.dtype == object else array.tolist()


def call(*arguments, **named):
    return described(request(*arguments, **named).exec())


def stream(values, model="many", **more):
    tensor = pb_utils.Tensor("X", np.array(values, dtype=np.float32))
    return request(model, inputs=[tensor], **more).exec(decoupled=True)


def typed(array):
    """The inner model is FP32: what it says to another datatype."""
    return call(inputs=[pb_utils.Tensor("X", array)])


class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for request in requests:
            responses.append(self.answer(request))
        return responses

    def answer(self, asked):
        word = what(asked)
        result = getattr(self, word)()
        return result if isinstance(result, pb_utils.InferenceResponse) else said(result)

    # Answers

    def one(self):
        return call()

    def both_outputs(self):
        return call(outputs=["Y", "TEXT"])

    def outputs_reversed(self):
        return call(outputs=["TEXT", "Y"])

    def all_outputs(self):
        return [name for name, _ in call(outputs=[])]

    def no_outputs_given(self):
        return call(mode="nothing")

    def version(self):
        return call(model_version=1)

    def empty_tensor(self):
        return call(inputs=[pb_utils.Tensor("X", np.zeros([0], np.float32))])

    def large(self):
        array = np.arange(300_000, dtype=np.float32)
        response = request(inputs=[pb_utils.Tensor("X", array)]).exec()
        got = pb_utils.get_output_tensor_by_name(response, "Y").as_numpy()
        return [list(got.shape), bool((got == array * 2).all())]

    def callee_writes(self):
        array = X.copy()
        answer = call(inputs=[pb_utils.Tensor("X", array)], mode="write")
        return [answer, array.tolist()]

    def identity_types(self):
        results = {}
        for name in ("bool", "uint8", "int8", "int64", "uint64", "fp16", "fp64"):
            dtype = {"fp16": "float16", "fp64": "float64"}.get(name, name)
            tensor = pb_utils.Tensor("INPUT0", np.array([[0, 1]], dtype=dtype))
            response = request(f"identity_{name}", ["OUTPUT0"], [tensor]).exec()
            got = response.output_tensors()[0].as_numpy()
            results[name] = [got.dtype.str, got.tolist()]
        return results

    def strings(self):
        array = np.array([[b"a\x00b", "grüß".encode(), b""]], dtype=object)
        response = request("identity_bytes", ["OUTPUT0"], [pb_utils.Tensor("INPUT0", array)]).exec()
        return [item.hex() for item in response.output_tensors()[0].as_numpy().reshape(-1)]

    def as_own(self):
        return request(outputs=["TEXT", "Y"]).exec()

    def chain(self):
        return call("middle")

    def twins(self):
        tensor = pb_utils.Tensor("X", np.array([1], dtype=np.float32))
        return call("twins", inputs=[tensor])

    # What the callee sees

    def nothing_handed_on(self):
        return call(outputs=["TEXT"])

    def all_handed_over(self):
        return call(
            outputs=["TEXT"], request_id="the id", correlation_id=7, flags=3, timeout=99,
            parameters={"a": 1, "b": "x", "c": True},
        )  # fmt: skip

    def text_correlation(self):
        return call(outputs=["TEXT"], correlation_id="seven")

    # Errors are values

    def unknown_model(self):
        return call("nobody")

    def unknown_version(self):
        return call(model_version=9)

    def unknown_output(self):
        return call(outputs=["N"])

    def unknown_input(self):
        return call(inputs=[pb_utils.Tensor("X", X), pb_utils.Tensor("Z", X)])

    def no_inputs(self):
        return call(inputs=[])

    def wrong_dtype(self):
        return typed(X.astype(np.int32))

    def wrong_shape(self):
        return typed(np.ones([2, 2], np.float32))

    def wrong_batch(self):
        return call("identity_fp32", ["OUTPUT0"], [pb_utils.Tensor("INPUT0", np.ones([9, 1], np.float32))])

    def callee_errs(self):
        return call(mode="error")

    def callee_raises(self):
        return call(mode="raise")

    def error_handed_on(self):
        return pb_utils.InferenceResponse(error=request(mode="error").exec().error())

    def error_as_own(self):
        return request("nobody").exec()

    def good_after_errors(self):
        return [call("nobody"), call(mode="error"), call()]

    # Threads and coroutines

    def without_loop(self):
        return outcome(request().async_exec)

    def gathered(self):
        async def ask():
            calls = [
                request(mode="double").async_exec(),
                request("middle").async_exec(),
                request("nobody").async_exec(),
            ]
            return [described(response) for response in await asyncio.gather(*calls)]

        return asyncio.run(ask())

    def from_thread(self):
        results = []
        thread = threading.Thread(target=lambda: results.append(call()))
        thread.start()
        thread.join()
        return results

    # Decoupled models

    def stream_three(self):
        return [described(response) for response in stream([1, 2, 3])]

    def stream_closed_with_last(self):
        return [described(response) for response in stream([1, 99])]

    def stream_nothing(self):
        return [described(response) for response in stream([])]

    def stream_again(self):
        responses = stream([1, 2])
        return [[described(response) for response in responses] for _ in range(2)]

    def stream_of_normal(self):
        return [described(response) for response in stream([1, 2], "inner")]

    def stream_of_unknown(self):
        return [described(response) for response in stream([1], "nobody")]

    def stream_asked_as_one(self):
        return call("many")

    # Control needs explicit mode

    def ready(self):
        asked = [("inner",), ("inner", "1"), ("inner", "9"), ("nobody",)]
        return [outcome(pb_utils.is_model_ready, *arguments) for arguments in asked]

    def own_text(self):
        return text("own")
