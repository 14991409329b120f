"""Makes outputs of every kind; the input WHAT names the one that is wanted."""

import numpy as np
import triton_python_backend_utils as pb_utils
from helpers import floats, kind, lines, outcome, text, what


def _tensor(name, array):
    return lambda request: pb_utils.InferenceResponse([pb_utils.Tensor(name, array())])


def _strings(*items):
    return _tensor("TEXT", lambda: np.array([*items, b"end"], dtype=object))


def _kind(array):
    return lambda request: text(kind(pb_utils.Tensor, "OUT", array()))


def _matrix():
    return np.arange(12, dtype=np.float32).reshape(3, 4)


def _list_element():
    array = np.empty(2, dtype=object)
    array[0], array[1] = [1, 2], bytearray(b"ba")
    return array


def _fortran():
    return np.asfortranarray(_matrix())


def _object_slice():
    return np.array([b"a", b"b", b"c", b"d"], dtype=object)[::2]


def _read_only():
    array = _matrix()
    array.flags.writeable = False
    return array


def changed_array(request):
    array = np.array([1, 2], dtype=np.float32)
    tensor = pb_utils.Tensor("OUT", array)
    array[0] = 7
    response = pb_utils.InferenceResponse([tensor])
    array[1] = 8
    return response


def changed_objects(request):
    array = np.array([b"first", b"second"], dtype=object)
    tensor = pb_utils.Tensor("TEXT", array)
    array[0] = b"changed"
    return pb_utils.InferenceResponse([tensor])


def not_utf8_exception(request):
    return text(kind(pb_utils.Tensor, "TEXT", np.array(["\udcff"], dtype=object)))


def unsupported(request):
    arrays = {
        "unicode": np.array(["a"]),
        "big_endian": np.zeros(2, ">f4"),
        "complex": np.zeros(2, np.complex64),
        "datetime": np.zeros(2, "M8[s]"),
        "long": np.zeros(2, np.longdouble),
    }
    return text(*(f"{name} {outcome(pb_utils.Tensor, 'OUT', array)}" for name, array in arrays.items()))


def returned_input(request):
    return pb_utils.InferenceResponse([pb_utils.get_input_tensor_by_name(request, "FP")])


def renamed_input(request):
    return pb_utils.InferenceResponse(
        [pb_utils.Tensor("OUT", pb_utils.get_input_tensor_by_name(request, "FP").as_numpy())]
    )


def written_input(request):
    array = pb_utils.get_input_tensor_by_name(request, "FP").as_numpy()
    array += 1
    again = pb_utils.get_input_tensor_by_name(request, "FP").as_numpy()
    flags = (array.flags.writeable, array.flags.c_contiguous, again is array)
    return pb_utils.InferenceResponse([pb_utils.Tensor("OUT", again), lines(str(flags))])


def strings_in(request):
    array = pb_utils.get_input_tensor_by_name(request, "STRINGS").as_numpy()
    seen = [str(array.dtype), str(array.shape), str(array.flags.writeable), *(repr(item) for item in array.reshape(-1))]
    return text(*seen)


def dlpack_in(request):
    tensor = pb_utils.get_input_tensor_by_name(request, "FP")
    array = np.from_dlpack(tensor)
    return text(str(array.tolist()), str(array.dtype), str(tensor.__dlpack_device__()), str(tensor.is_cpu()))


def dlpack_again(request):
    tensor = pb_utils.get_input_tensor_by_name(request, "FP")
    return pb_utils.InferenceResponse([pb_utils.Tensor.from_dlpack("OUT", tensor.to_dlpack())])


def shapes(request):
    tensor = pb_utils.Tensor("OUT", _matrix())
    return text(tensor.name(), str(tensor.shape()), str(tensor.is_cpu()), str(tensor.as_numpy().tolist()))


def _response(*tensors):
    return lambda request: pb_utils.InferenceResponse([make() for make in tensors])


def _more(*values):
    return lambda: pb_utils.Tensor("MORE", np.array(values, dtype=np.int32))


MAKERS = {
    "str": _strings("a", "grüß", ""),
    "bytes": _strings(b"a", "grüß".encode(), b"", b"nul\x00inside"),
    "not_utf8": _strings(b"\xff\xfe"),
    "none": _strings(None),
    "numbers": _strings(3, 2.5, True),
    "list": _tensor("TEXT", _list_element),
    "np_bytes": _strings(np.bytes_(b"nb")),
    "np_str": _strings(np.str_("ns")),
    "s_array": _tensor("TEXT", lambda: np.array([b"ab", b"c"])),
    "s_array_nul": _tensor("TEXT", lambda: np.array([b"ab\x00\x00", b"\x00c"])),
    "two_dims": _tensor("TEXT", lambda: np.array([[b"a", b"b"], [b"c", b"d"]], dtype=object)),
    "object_slice": _tensor("TEXT", _object_slice),
    "empty_strings": _tensor("TEXT", lambda: np.array([], dtype=object)),
    "surrogate": not_utf8_exception,
    "transposed": _tensor("OUT", lambda: _matrix().T),
    "stepped": _tensor("OUT", lambda: _matrix()[:, ::2]),
    "reversed": _tensor("OUT", lambda: _matrix()[::-1]),
    "fortran": _tensor("OUT", _fortran),
    "read_only": _tensor("OUT", _read_only),
    "np_matrix": _tensor("OUT", lambda: np.matrix([[1, 2]], dtype=np.float32)),
    "zero_dim": _tensor("OUT", lambda: np.array(3, dtype=np.float32)),
    "empty": _tensor("OUT", lambda: np.zeros([0], dtype=np.float32)),
    "empty_three": _tensor("OUT", lambda: np.zeros([2, 0, 3], dtype=np.float32)),
    "special": _tensor("OUT", lambda: np.array([np.nan, np.inf, -np.inf, -0.0, 1e-45, 16777216], dtype=np.float32)),
    "other_dtype": _tensor("OUT", lambda: np.array([1, 2], dtype=np.int64)),
    "other_rank": _tensor("OUT", lambda: np.ones([1, 2, 1], dtype=np.float32)),
    "half": _tensor("OUT", lambda: np.array([1.5, -2], dtype=np.float16)),
    "bool": _tensor("OUT", lambda: np.array([True, False])),
    "uint64": _tensor("OUT", lambda: np.array([2**64 - 1, 0], dtype=np.uint64)),
    "int8": _tensor("OUT", lambda: np.array([-128, 127], dtype=np.int8)),
    "changed_array": changed_array,
    "changed_objects": changed_objects,
    "from_list": _kind(lambda: [1.0]),
    "from_float": _kind(lambda: 1.0),
    "from_scalar": _kind(lambda: np.float32(1)),
    "unsupported": unsupported,
    "structured": _kind(lambda: np.zeros(2, [("a", "f4"), ("b", "i4")])),
    "returned_input": returned_input,
    "renamed_input": renamed_input,
    "written_input": written_input,
    "strings_in": strings_in,
    "dlpack_in": dlpack_in,
    "dlpack_again": dlpack_again,
    "shapes": shapes,
    "all": _response(lambda: floats(1, 2), lambda: lines("t"), _more(3)),
    "reordered": _response(_more(3), lambda: lines("t"), lambda: floats(1, 2)),
    "some": _response(_more(3)),
    "nothing": lambda request: pb_utils.InferenceResponse([]),
    "no_argument": lambda request: pb_utils.InferenceResponse(),
    "undeclared": _response(lambda: pb_utils.Tensor("OTHER", np.ones(1, np.float32)), _more(1)),
    "only_undeclared": _response(lambda: pb_utils.Tensor("OTHER", np.ones(1, np.float32))),
    "duplicate": _response(_more(1), _more(2)),
}


class TritonPythonModel:
    def execute(self, requests):
        return [MAKERS[what(request)](request) for request in requests]
