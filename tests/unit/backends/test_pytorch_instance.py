"""Batches through PyTorch models: names, datatypes, strings, results of all kinds, memory of others, errors."""

from __future__ import annotations

import gc
import threading
import weakref
from pathlib import Path
from typing import Any, Dict, List, Tuple  # noqa: UP035

import numpy as np
import pytest
from inference import request, values
from torch_models import AddSub, Loaded, config, export, from_source, parameter, torch, write

from triton_async import datatypes
from triton_async.backends.base import execute_requests
from triton_async.backends.pytorch.calls import Caller
from triton_async.backends.pytorch.options import Options
from triton_async.errors import InternalError, InvalidArg
from triton_async.infer.tensor import from_numpy, make
from triton_async.memory.slab import SlabPool

Tensor = torch.Tensor
PAIR = (["INPUT__0 FP32 [4]", "INPUT__1 FP32 [4]"], ["OUTPUT__0 FP32 [4]", "OUTPUT__1 FP32 [4]"])

# v2 name -> three values.
NUMBERS: dict[str, list[Any]] = {
    "BOOL": [True, False, True],
    "UINT8": [0, 1, 255],
    "UINT16": [0, 1, 65535],
    "UINT32": [0, 1, 2**32 - 1],
    "UINT64": [0, 1, 2**64 - 1],
    "INT8": [-128, 0, 127],
    "INT16": [-(2**15), 0, 2**15 - 1],
    "INT32": [-(2**31), 0, 2**31 - 1],
    "INT64": [-(2**63), 0, 2**63 - 1],
    "FP16": [-65504.0, 0.5, np.inf],
    "FP32": [-1.5, 0.0, np.nan],
    "FP64": [-1e300, 0.0, np.inf],
    "BF16": [0x3F80, 0x0000, 0xFFFF],
}


class Identity(torch.nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


class Clone(torch.nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.clone()


@pytest.mark.parametrize("module", [Identity(), Clone()], ids=["view", "fresh"])
@pytest.mark.parametrize("name", NUMBERS)
def test_every_number_type_survives(tmp_path: Path, pool: SlabPool, name: str, module: Any) -> None:
    datatype = datatypes.from_name(name)
    loaded = Loaded(write(tmp_path, module, config([f"x {name} [3]"], [f"y {name} [3]"], 8)), pool)
    dtype = np.uint16 if name == "BF16" else datatypes.numpy_dtype(datatype)
    rows = np.array([NUMBERS[name], NUMBERS[name][::-1]], dtype=dtype)
    both = [request(x=from_numpy("x", rows, datatype)), request(x=from_numpy("x", rows[:1], datatype))]
    for batch in (both[:1], both):
        for response, expected in zip(loaded.run(*batch), (rows, rows[:1]), strict=False):
            assert response.error is None
            assert response.outputs[0].datatype == datatype
            assert bytes(response.outputs[0]) == expected.tobytes()
            assert response.outputs[0].shape == expected.shape


def test_a_byte_that_is_no_bool_counts_as_true(tmp_path: Path, pool: SlabPool) -> None:
    class Count(torch.nn.Module):
        def forward(self, x: Tensor) -> Tuple[Tensor, Tensor]:  # noqa: UP006
            return x, x.nonzero()

    loaded = Loaded(write(tmp_path, Count(), config(["x BOOL [-1]"], ["a BOOL [-1]", "b INT64 [-1, 1]"])), pool)
    found = loaded.run_one(x=make("x", datatypes.from_name("BOOL"), (4,), bytes([0, 2, 255, 1])))
    assert bytes(found["a"]) == bytes([0, 1, 1, 1])
    assert found["b"].tolist() == [[1], [2], [3]]


def test_bytes_that_are_not_aligned(tmp_path: Path, pool: SlabPool) -> None:
    loaded = Loaded(write(tmp_path, Clone(), config(["x FP64 [4]"], ["y FP64 [4]"])), pool)
    x = np.arange(4.0)
    tensor = make("x", datatypes.from_name("FP64"), (4,), b"123" + x.tobytes(), 3)
    assert loaded.run_one(x=tensor)["y"].tolist() == x.tolist()


@pytest.mark.parametrize("dims", [(0,), (0, 3), (2, 0)])
def test_tensors_without_elements(tmp_path: Path, pool: SlabPool, dims: tuple[int, ...]) -> None:
    text = ", ".join(["-1"] * len(dims))
    loaded = Loaded(write(tmp_path, Clone(), config([f"x FP32 [{text}]"], [f"y FP32 [{text}]"])), pool)
    assert loaded.run_one(x=np.zeros(dims, np.float32))["y"].shape == dims


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [
        (["x", "y"], ["OUTPUT__0", "OUTPUT__1"]),
        (["INPUT__0", "INPUT__1"], ["a__0", "b__1"]),
        (["first", "second"], ["sum", "difference"]),
    ],
    ids=["arguments", "indices", "order"],
)
def test_naming_conventions(tmp_path: Path, pool: SlabPool, inputs: list[str], outputs: list[str]) -> None:
    text = config([f"{name} FP32 [4]" for name in inputs], [f"{name} FP32 [4]" for name in outputs], 4)
    loaded = Loaded(write(tmp_path, AddSub(), text), pool)
    a, b = np.full((1, 4), 5, np.float32), np.full((1, 4), 3, np.float32)
    found = loaded.run_one(**dict(zip(inputs, (a, b), strict=True)))
    assert [found[name][0, 0] for name in outputs] == [8, 2]


@pytest.mark.parametrize(("inputs", "outputs"), [(["y", "x"], ["O__1", "O__0"]), (["I__1", "I__0"], ["O__1", "O__0"])])
def test_names_go_before_the_order_of_the_config(
    tmp_path: Path, pool: SlabPool, inputs: list[str], outputs: list[str]
) -> None:
    text = config([f"{name} FP32 [4]" for name in inputs], [f"{name} FP32 [4]" for name in outputs])
    loaded = Loaded(write(tmp_path, AddSub(), text), pool)
    a, b = np.full(4, 5, np.float32), np.full(4, 3, np.float32)
    found = loaded.run_one(**dict(zip(inputs, (b, a), strict=True)))
    assert (found["O__0"][0], found["O__1"][0]) == (8, 2)


def test_rows_of_requests_stay_apart(tmp_path: Path, pool: SlabPool) -> None:
    loaded = Loaded(write(tmp_path, AddSub(), config(*PAIR, 16)), pool)
    arrays = [np.full((rows, 4), rows, np.float32) for rows in (1, 3, 2, 5)]
    responses = loaded.run(*[request(INPUT__0=a, INPUT__1=a + 1) for a in arrays])
    for response, a in zip(responses, arrays, strict=True):
        found = values(response)
        np.testing.assert_array_equal(found["OUTPUT__0"], a + a + 1)
        np.testing.assert_array_equal(found["OUTPUT__1"], a - a - 1)


def test_only_requested_outputs_come_back(tmp_path: Path, pool: SlabPool) -> None:
    loaded = Loaded(write(tmp_path, AddSub(), config(*PAIR)), pool)
    a = np.ones(4, np.float32)
    assert list(values(loaded.run(request("OUTPUT__1", INPUT__0=a, INPUT__1=a))[0])) == ["OUTPUT__1"]


def test_reshape_is_what_the_model_sees(tmp_path: Path, pool: SlabPool) -> None:
    class Twice(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            assert x.dim() == 1, "one dimension"
            return x * 2

    text = (
        "backend: 'pytorch' max_batch_size: 4\n"
        "input { name: 'x' data_type: TYPE_FP32 dims: [1] reshape { shape: [] } }\n"
        "output { name: 'y' data_type: TYPE_FP32 dims: [1] reshape { shape: [] } }\n"
    )
    loaded = Loaded(write(tmp_path, Twice(), text), pool)
    assert loaded.run_one(x=np.ones((3, 1), np.float32))["y"].tolist() == [[2], [2], [2]]


class Shout(torch.nn.Module):
    def forward(self, x: List[str], t: Tensor) -> Tuple[List[str], Tensor]:  # noqa: UP006
        return [i + "!" for i in x], t + 1


def test_strings_are_lists(tmp_path: Path, pool: SlabPool) -> None:
    text = config(["x STRING [-1]", "t FP32 [1]"], ["y__0 STRING [-1]", "z__1 FP32 [1]"])
    loaded = Loaded(write(tmp_path, Shout(), text), pool)
    strings = ["", "ü", "a\0b", "x" * 70_000]
    found = loaded.run_one(x=np.array(strings, dtype=object), t=np.zeros(1, np.float32))
    assert [s.decode() for s in found["y__0"]] == [s + "!" for s in strings]
    assert found["z__1"].tolist() == [1]
    found = loaded.run_one(x=make("x", 13, (0,), b""), t=np.zeros(1, np.float32))
    assert found["y__0"].shape == (0,)


def test_strings_of_several_requests(tmp_path: Path, pool: SlabPool) -> None:
    text = (
        "backend: 'pytorch' max_batch_size: 8\n"
        "input { name: 'x' data_type: TYPE_STRING dims: [1] reshape { shape: [] } }\n"
        "input { name: 't' data_type: TYPE_FP32 dims: [1] }\n"
        "output { name: 'y__0' data_type: TYPE_STRING dims: [1] reshape { shape: [] } }\n"
        "output { name: 'z__1' data_type: TYPE_FP32 dims: [1] }\n"
    )
    loaded = Loaded(write(tmp_path, Shout(), text), pool)
    rows = [["a"], ["b", "c"], ["d"]]
    requests = [
        request(x=np.array([[s] for s in r], dtype=object), t=np.full((len(r), 1), i, np.float32))
        for i, r in enumerate(rows)
    ]
    for i, (response, r) in enumerate(zip(loaded.run(*requests), rows, strict=True)):
        found = values(response)
        assert found["y__0"].tolist() == [[f"{s}!".encode()] for s in r]
        assert found["z__1"].tolist() == [[i + 1]] * len(r)


def test_a_string_that_is_not_text_is_an_error_only_where_it_is_returned(tmp_path: Path, pool: SlabPool) -> None:
    text = config(["x STRING [-1]", "t FP32 [1]"], ["y__0 STRING [-1]", "z__1 FP32 [1]"])
    loaded = Loaded(write(tmp_path, Shout(), text), pool)
    with pytest.raises(InternalError, match="a string that the model returned is not UTF-8"):
        loaded.run_one(x=np.array([b"\xff\xfe"], dtype=object), t=np.zeros(1, np.float32))

    class Length(torch.nn.Module):
        def forward(self, x: List[str]) -> Tensor:  # noqa: UP006
            return torch.tensor([len(i) for i in x])

    loaded = Loaded(write(tmp_path, Length(), config(["x STRING [-1]"], ["n INT64 [-1]"]), "n"), pool)
    assert loaded.run_one(x=np.array([b"\xff\xfe", b"a\0b"], dtype=object))["n"].tolist() == [2, 3]


def test_a_dictionary_of_inputs_has_the_names_of_the_config(tmp_path: Path, pool: SlabPool) -> None:
    class Sum(torch.nn.Module):
        def forward(self, tensors: Dict[str, Tensor]) -> Tensor:  # noqa: UP006
            return tensors["a"] - tensors["b"] if "b" in tensors else tensors["a"]

    text = config(["b FP32 [2]", "a FP32 [2]"], ["y FP32 [2]"]).replace("dims: [2] }", "dims: [2] optional: true }", 1)
    loaded = Loaded(write(tmp_path, Sum(), text), pool)
    a, b = np.array([5, 6], np.float32), np.array([1, 2], np.float32)
    assert loaded.run_one(a=a, b=b)["y"].tolist() == [4, 4]
    assert loaded.run_one(a=a)["y"].tolist() == [5, 6]


def test_results_in_a_list_and_in_a_dictionary(tmp_path: Path, pool: SlabPool) -> None:
    class Chunks(torch.nn.Module):
        def forward(self, x: Tensor) -> List[Tensor]:  # noqa: UP006
            return x.chunk(2, 1)

    class Named(torch.nn.Module):
        def forward(self, x: Tensor) -> Dict[str, Tensor]:  # noqa: UP006
            return {"low": x - 1, "high": x + 1}

    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    loaded = Loaded(write(tmp_path, Chunks(), config(["x FP32 [4]"], ["b__1 FP32 [2]", "a__0 FP32 [2]"], 4)), pool)
    found = loaded.run_one(x=x)
    np.testing.assert_array_equal(np.hstack([found["a__0"], found["b__1"]]), x)
    loaded = Loaded(write(tmp_path, Named(), config(["x FP32 [4]"], ["high FP32 [4]", "low FP32 [4]"], 4), "n"), pool)
    found = loaded.run_one(x=x)
    np.testing.assert_array_equal(found["high"] - found["low"], np.full_like(x, 2))
    loaded = Loaded(write(tmp_path, Named(), config(["x FP32 [4]"], ["middle FP32 [4]"], 4), "o"), pool)
    with pytest.raises(InvalidArg, match=r"middle .* which has: low, high"):
        loaded.run_one(x=x)


class Odd(torch.nn.Module):
    def forward(self, x: Tensor):  # type: ignore[no-untyped-def]
        return (
            x.t(), x.sum(), x * 2, x[::2, 1:], x.expand([2, 3, 2]), x.to_sparse(), torch.complex(x, x),
            torch.quantize_per_tensor(x, 0.1, 0, torch.quint8), torch.complex(x, x).conj().imag,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("index", "dims"), [(0, "[2, 3]"), (1, "[1]"), (2, "[3, 2]"), (3, "[2, 1]"), (4, "[2, 3, 2]"), (8, "[3, 2]")]
)
def test_results_that_do_not_lie_in_order(tmp_path: Path, pool: SlabPool, index: int, dims: str) -> None:
    loaded = Loaded(write(tmp_path, Odd(), config(["x FP32 [3, 2]"], [f"y__{index} FP32 {dims}"])), pool)
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    expected = [x.T, np.array([x.sum()]), x * 2, x[::2, 1:], np.stack([x, x])]
    found = loaded.run_one(x=x)[f"y__{index}"]
    np.testing.assert_array_equal(found, -x if index == 8 else expected[index])


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("y__5 FP32 [3, 2]", "output 'y__5' must be a dense tensor, received one of layout torch.sparse_coo"),
        ("y__7 FP32 [3, 2]", r"output 'y__7' must be a dense tensor, received a quantized one"),
        ("y__6 FP32 [3, 2]", "TYPE_FP32 for output 'y__6', model provides torch.complex64"),
        ("y__0 INT32 [2, 3]", "configuration expects datatype TYPE_INT32 for output 'y__0', model provides TYPE_FP32"),
        ("y__0 STRING [2]", "TYPE_STRING for output 'y__0', model provides no List"),
        ("y__1 FP32 [2]", "output 'y__1' is a scalar which is not supported"),
        ("y__9 FP32 [2]", "The output y__9 in the model configuration refers to an output index which doesn't exist. "
                          "This model has 9 outputs"),
    ],
)  # fmt: skip
def test_results_that_are_not_what_the_config_says(tmp_path: Path, pool: SlabPool, output: str, message: str) -> None:
    loaded = Loaded(write(tmp_path, Odd(), config(["x FP32 [3, 2]"], [output])), pool)
    with pytest.raises(InvalidArg, match=message):
        loaded.run_one(x=np.zeros((3, 2), np.float32))


def test_a_batch_of_the_wrong_size_is_an_error_of_all(tmp_path: Path, pool: SlabPool) -> None:
    class First(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[:1]

    loaded = Loaded(write(tmp_path, First(), config(["x FP32 [2]"], ["y FP32 [2]"], 8)), pool)
    for response in loaded.run(*[request(x=np.zeros((1, 2), np.float32)) for _ in range(3)]):
        assert response.error is not None
        assert "expected batch size of at least 3 in model output, got 1" in response.error.message


@pytest.mark.parametrize("returned", ["3", "1.5", "True", "'text'", "[1, 2]", "None"])
def test_results_that_are_no_tensors(tmp_path: Path, pool: SlabPool, returned: str) -> None:
    module = from_source(tmp_path / "returns.py", f"    return {returned}")
    loaded = Loaded(write(tmp_path, module, config(["x FP32 [1]"], ["y FP32 [1]"])), pool)
    with pytest.raises(InvalidArg, match=r"output 'y' must be of type Tensor or List\[str\]"):
        loaded.run_one(x=np.zeros(1, np.float32))


class Grow(torch.nn.Module):
    def forward(self, x: Tensor) -> Tuple[Tensor, Tensor]:  # noqa: UP006
        before = x.clone()
        x.view(-1).add_(1)
        return before, x


class Drop(torch.nn.Module):
    """Writes to what dropout returned: in a model that is not in training that is its argument."""

    def forward(self, x: Tensor) -> Tuple[Tensor, Tensor]:  # noqa: UP006
        before = x.clone()
        y = torch.nn.functional.dropout(x, 0.5, False)
        y += 1
        return before, y


@pytest.mark.parametrize("module", [Grow(), Drop()], ids=["view", "dropout"])
@pytest.mark.parametrize("exported", [False, True], ids=["script", "exported"])
def test_a_model_that_writes_to_its_input_writes_to_a_copy(
    tmp_path: Path, pool: SlabPool, module: Any, exported: bool
) -> None:
    made = export(module, torch.zeros(2, 3)) if exported else module
    text = config(["x FP32 [2, 3]"], ["OUTPUT__0 FP32 [2, 3]", "OUTPUT__1 FP32 [2, 3]"])
    loaded = Loaded(write(tmp_path, made, text), pool)
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    sent = x.tobytes()  # read-only
    for _ in range(2):
        found = loaded.run_one(x=make("x", datatypes.from_name("FP32"), (2, 3), sent))
        np.testing.assert_array_equal(found["OUTPUT__0"], x)
        np.testing.assert_array_equal(found["OUTPUT__1"], x + 1)
    assert sent == x.tobytes()


class Counter(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.count += x.sum()
        return self.count


@pytest.mark.parametrize("exported", [False, True], ids=["script", "exported"])
def test_a_response_keeps_the_state_of_its_time(tmp_path: Path, pool: SlabPool, exported: bool) -> None:
    made = export(Counter(), torch.zeros(1)) if exported else Counter()
    loaded = Loaded(write(tmp_path, made, config(["x FP32 [1]"], ["OUTPUT__0 FP32 [1]"])), pool)
    responses = [loaded.run(request(x=np.ones(1, np.float32)))[0] for _ in range(3)]
    assert [values(response)["OUTPUT__0"].tolist() for response in responses] == [[1], [2], [3]]


def test_instances_share_state_only_when_told(tmp_path: Path, pool: SlabPool) -> None:
    for name, rest, expected in (("own", "", 1), ("shared", parameter("ENABLE_WEIGHT_SHARING", "true"), 2)):
        text = config(["x FP32 [1]"], ["OUTPUT__0 FP32 [1]"], rest=rest)
        loaded = Loaded(write(tmp_path, Counter(), text, name), pool)
        one = np.ones(1, np.float32)
        assert loaded.run_one(x=one)["OUTPUT__0"][0] == 1
        loaded.instance = loaded.make_instance("m_1")
        assert loaded.run_one(x=one)["OUTPUT__0"][0] == expected


def test_an_output_outlives_its_instance_and_input(tmp_path: Path, pool: SlabPool) -> None:
    loaded = Loaded(write(tmp_path, Identity(), config(["x FP32 [-1]"], ["y FP32 [-1]"])), pool)
    x = np.arange(1000, dtype=np.float32)
    response = loaded.run(request(x=x.copy()))[0]
    loaded.close()
    del loaded
    gc.collect()
    np.testing.assert_array_equal(response.outputs[0].numpy(), x)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("    raise ValueError('not today')", "not today"),
        ("    assert x.dim() == 5, 'five please'\n    return x", "five please"),
        ("    return x @ torch.ones([7, 7])", "mat1 and mat2 shapes cannot be multiplied"),
        ("    return x[torch.tensor([99])]", "index 99 is out of bounds"),
    ],
)
def test_errors_in_a_model_name_no_file(tmp_path: Path, pool: SlabPool, body: str, message: str) -> None:
    module = from_source(tmp_path / "secret_module.py", body)
    loaded = Loaded(write(tmp_path, module, config(["x FP32 [2, 2]"], ["y FP32 [2, 2]"])), pool)
    with pytest.raises(InternalError, match=message) as caught:
        loaded.run_one(x=np.zeros((2, 2), np.float32))
    text = caught.value.message
    assert text.startswith("PyTorch execute failure: ")
    assert "secret_module" not in text
    assert "File" not in text
    assert "\n" not in text


def test_a_failed_batch_leaves_the_instance_usable(tmp_path: Path, pool: SlabPool) -> None:
    class Picky(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            assert bool(x.sum() > 0), "positive please"
            return x

    loaded = Loaded(write(tmp_path, Picky(), config(["x FP32 [1]"], ["y FP32 [1]"])), pool)
    for _ in range(3):
        with pytest.raises(InternalError, match="positive please"):
            loaded.run_one(x=-np.ones(1, np.float32))
        assert loaded.run_one(x=np.ones(1, np.float32))["y"].tolist() == [1]


def test_two_instances_at_the_same_time(tmp_path: Path, pool: SlabPool) -> None:
    loaded = Loaded(write(tmp_path, AddSub(), config(*PAIR, 16)), pool)
    failed: list[BaseException] = []

    def work(number: int) -> None:
        try:
            mine = loaded.make_instance(f"m_{number}")
            for i in range(50):
                a = np.full((1 + i % 5, 4), i + number * 100, np.float32)
                found = values(execute_requests(mine, loaded.signature, [request(INPUT__0=a, INPUT__1=a)])[0])
                np.testing.assert_array_equal(found["OUTPUT__0"], a + a)
            mine.close()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


def test_unloading_frees_the_model(tmp_path: Path, pool: SlabPool) -> None:
    loaded = Loaded(write(tmp_path, torch.nn.Linear(4, 4), config(["x FP32 [4]"], ["y FP32 [4]"], 2)), pool)
    program = weakref.ref(loaded.instance._caller._program)  # type: ignore[attr-defined]
    assert program() is not None
    loaded.run_one(x=np.zeros((1, 4), np.float32))
    loaded.close()
    gc.collect()
    assert program() is None
    with pytest.raises(InternalError, match="closed"):
        loaded.run_one(x=np.zeros((1, 4), np.float32))


def test_instances_keep_their_numbers_of_threads() -> None:
    """Whatever others set before their first run, and without a word to threads that are nobody's instance."""
    counts: dict[int, int] = {}
    ready, go = threading.Barrier(4), threading.Event()

    def instance(count: int) -> None:
        Caller(torch, None, None, Options(intra_op_threads=count), 1)  # type: ignore[arg-type]
        ready.wait()
        go.wait()
        counts[count] = torch.get_num_threads()

    before: list[int] = []
    first = threading.Thread(target=lambda: before.append(torch.get_num_threads()))
    first.start()
    first.join()
    threads = [threading.Thread(target=instance, args=(count,)) for count in (1, 2, 3)]
    for thread in threads:
        thread.start()
    ready.wait()
    go.set()
    last = threading.Thread(target=lambda: before.append(torch.get_num_threads()))
    for thread in (*threads, last):
        if thread is last:
            thread.start()
        thread.join()
    assert counts == {1: 1, 2: 2, 3: 3}
    assert before[0] == before[1]


def test_a_thread_that_sets_its_number_twice_sets_nobody_else_s() -> None:
    """As when an instance that is broken is made anew."""

    def of_a_new_thread() -> int:
        found: list[int] = []
        thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        return found[0]

    counts: list[int] = []

    def instances(first: int, second: int) -> None:
        for count in (first, second):
            Caller(torch, None, None, Options(intra_op_threads=count), 1)  # type: ignore[arg-type]
            counts.append(torch.get_num_threads())

    before = of_a_new_thread()
    thread = threading.Thread(target=instances, args=(before + 1, before + 2))
    thread.start()
    thread.join()
    assert counts == [before + 1, before + 2]
    assert of_a_new_thread() == before
