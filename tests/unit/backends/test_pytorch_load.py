"""Loading PyTorch models: kinds of files, auto-complete, parameters, files that are broken or could run code."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
import threading
import warnings
import zipfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch_models import BACKEND, AddSub, Loaded, config, export, from_source, parameter, script, torch, write

from triton_async.errors import InternalError, InvalidArg, ServerError, Unavailable, Unsupported
from triton_async.memory.slab import SlabPool

PAIR = (["INPUT__0 FP32 [4]", "INPUT__1 FP32 [4]"], ["OUTPUT__0 FP32 [4]", "OUTPUT__1 FP32 [4]"])
ONE = (["x FP32 [4]"], ["y FP32 [4]"])


def exported_add_sub() -> Any:
    batch = torch.export.Dim("batch", min=1, max=64)
    return export(AddSub(), torch.zeros(2, 4), torch.zeros(2, 4), dynamic={"x": {0: batch}, "y": {0: batch}})


def test_an_exported_program_completes_its_config(tmp_path: Path, pool: SlabPool) -> None:
    loaded = Loaded(write(tmp_path, exported_add_sub(), None), pool)
    assert [(io.name, io.datatype, io.dims) for io in loaded.config.inputs] == [("x", 11, (4,)), ("y", 11, (4,))]
    assert [(io.name, io.dims) for io in loaded.config.outputs] == [("OUTPUT__0", (4,)), ("OUTPUT__1", (4,))]
    assert loaded.config.max_batch_size == 4
    assert loaded.config.dynamic_batching is not None
    assert (loaded.config.backend, loaded.config.platform) == ("pytorch", "torch_aoti")
    a = np.ones((3, 4), np.float32)
    assert loaded.run_one(x=a, y=a)["OUTPUT__0"].tolist() == (a + a).tolist()


def test_an_exported_program_with_fixed_shapes_does_not_batch(tmp_path: Path, pool: SlabPool) -> None:
    made = export(AddSub(), torch.zeros(2, 4), torch.zeros(2, 4))
    loaded = Loaded(write(tmp_path, made, None), pool)
    assert loaded.config.max_batch_size == 0
    assert loaded.config.inputs[0].dims == (2, 4)
    with pytest.raises(InvalidArg, match="does not support batching"):
        Loaded(write(tmp_path, made, "max_batch_size: 8", "n"), pool)


def test_files_are_loaded_in_parallel_as_one_after_the_other(tmp_path: Path, pool: SlabPool) -> None:
    exported = exported_add_sub()
    directories = [write(tmp_path, exported, None, f"exported{i}") for i in range(6)]
    directories += [write(tmp_path, AddSub(), config(*PAIR), f"script{i}") for i in range(2)]
    begin = threading.Barrier(len(directories))
    results: list[list[list[float]]] = []
    filters = list(warnings.filters)

    def work(directory: Path) -> None:
        begin.wait(60)
        loaded = Loaded(directory, pool)
        ones = np.ones((2, 4) if directory.name.startswith("exported") else (4,), np.float32)
        results.append(loaded.run_one(**{io.name: ones for io in loaded.config.inputs})["OUTPUT__0"].tolist())

    threads = [threading.Thread(target=work, args=(directory,)) for directory in directories]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == len(directories)
    assert warnings.filters == filters


class Nested(torch.nn.Module):
    def forward(self, x: Any, pair: Any, *, scale: Any = None) -> Any:
        return {"sum": pair["a"] + pair["b"] * scale, "rest": (x.to(torch.int64), 3, pair["a"] - x)}


def test_nested_arguments_and_results_of_an_exported_program(tmp_path: Path, pool: SlabPool) -> None:
    made = export(Nested(), torch.zeros(2), {"a": torch.zeros(2), "b": torch.zeros(2)}, scale=torch.zeros(2))
    loaded = Loaded(write(tmp_path, made, None), pool)
    assert [io.name for io in loaded.config.inputs] == ["x", "pair_a", "pair_b", "scale"]
    assert [io.name for io in loaded.config.outputs] == ["sum", "OUTPUT__1", "OUTPUT__3"]
    x, a, b, scale = (np.full(2, v, np.float32) for v in (1, 10, 3, 5))
    found = loaded.run_one(x=x, pair_a=a, pair_b=b, scale=scale)
    assert {name: value.tolist() for name, value in found.items()} == {
        "sum": [25, 25], "OUTPUT__1": [1, 1], "OUTPUT__3": [9, 9],
    }  # fmt: skip
    # The names that Triton gives the arguments of AOTInductor models.
    inputs = ["KWARGS[scale] FP32 [2]", "ARGS[1][b] FP32 [2]", "ARGS[0] FP32 [2]", "ARGS[1][a] FP32 [2]"]
    text = config(inputs, ["RESULT[rest][2] FP32 [2]", "RESULT[sum] FP32 [2]"])
    loaded = Loaded(write(tmp_path, made, text, "n"), pool)
    found = loaded.run_one(**{"ARGS[0]": x, "ARGS[1][a]": a, "ARGS[1][b]": b, "KWARGS[scale]": scale})
    assert found["RESULT[sum]"].tolist() == [25, 25]
    assert found["RESULT[rest][2]"].tolist() == [9, 9]


def test_shapes_that_an_exported_program_does_not_take(tmp_path: Path, pool: SlabPool) -> None:
    batch = torch.export.Dim("batch", min=1, max=8)
    made = export(torch.nn.ReLU(), torch.zeros(2, 4), dynamic={"input": {0: batch}})
    loaded = Loaded(write(tmp_path, made, "max_batch_size: 16"), pool)
    assert loaded.run_one(input=-np.ones((8, 4), np.float32))["OUTPUT__0"].max() == 0
    with pytest.raises(InternalError, match=r"PyTorch execute failure: Guard failed: .* <= 8"):
        loaded.run_one(input=np.ones((9, 4), np.float32))


def test_a_config_that_is_not_the_exported_programs(tmp_path: Path, pool: SlabPool) -> None:
    for name, text, message in (
        ("a", config(["x FP16 [4]", "y FP32 [4]"], ["a FP32 [4]"], 4), "expects datatype TYPE_FP16 for input 'x'"),
        ("b", config(["x FP32 [5]", "y FP32 [4]"], ["a FP32 [4]"], 4), "tensor 'x': the model expects 2 dimensions"),
        ("c", config(["x FP32 [4]"], ["a FP32 [4]"], 4), "configuration expects 1 inputs, model provides 2"),
        ("d", config(["x FP32 [4]", "y FP32 [4]"], ["a__2 FP32 [4]"], 4), "refers to an output index which doesn't"),
    ):
        with pytest.raises(InvalidArg, match=message):
            Loaded(write(tmp_path, exported_add_sub(), text, name), pool)


@pytest.mark.parametrize("platform", ["pytorch_libtorch", "libtorch"])
def test_platforms_of_torchscript(tmp_path: Path, pool: SlabPool, platform: str) -> None:
    text = config(*PAIR).replace("backend: 'pytorch'", f"platform: '{platform}'")
    loaded = Loaded(write(tmp_path, AddSub(), text), pool)
    assert (loaded.config.backend, loaded.config.default_model_filename) == ("pytorch", "model.pt")


def test_model_pt2_is_the_second_choice(tmp_path: Path, pool: SlabPool) -> None:
    loaded = Loaded(write(tmp_path, exported_add_sub(), "backend: 'pytorch'"), pool)
    assert loaded.config.platform == "pytorch_libtorch"
    assert loaded.config.max_batch_size == 4
    (tmp_path / "empty" / "1").mkdir(parents=True)
    (tmp_path / "empty" / "config.pbtxt").write_text(config(*PAIR))
    with pytest.raises(Unavailable, match=r"unable to find 'empty/1/model.pt' for model 'empty'"):
        Loaded(tmp_path / "empty", pool)


@pytest.mark.parametrize("text", [None, config(ONE[0], []), config([], ONE[1]), "input { name: 'x' }"])
def test_torchscript_needs_a_complete_config(tmp_path: Path, pool: SlabPool, text: str | None) -> None:
    with pytest.raises(InvalidArg, match=r"at least one (input|output), .* auto-complete is not supported"):
        Loaded(write(tmp_path, torch.nn.ReLU(), text), pool)


@pytest.mark.parametrize(
    ("head", "inputs", "expected"),
    [
        ("def forward(self, x: torch.Tensor, n: int):", ONE[0],
         (InternalError, "An input of type 'int' was detected")),
        ("def forward(self, x: torch.Tensor, n: bool = False):", ONE[0],
         (InternalError, "An input of type 'bool'")),
        ("def forward(self, x: list[torch.Tensor]):", ONE[0],
         (InternalError, r"An input of type 'List\[Tensor\]'")),
        ("def forward(self, x: dict[str, int]):", ONE[0],
         (InternalError, r"An input of type 'Dict\[str, int\]'")),
        ("def forward(self, x: torch.Tensor, y: dict[str, torch.Tensor]):", ONE[0],
         (InternalError, "Multiple inputs")),
        ("def forward(self, x: torch.Tensor, y: torch.Tensor):", ONE[0],
         (InvalidArg, "configuration expects 1 inputs, model provides 2")),
        ("def forward(self, x: torch.Tensor):", ["x STRING [4]"],
         (InvalidArg, "TYPE_STRING and its argument is a Tens")),
        ("def forward(self, x: list[str]):", ONE[0],
         (InvalidArg, r"TYPE_FP32 and its argument is a List\[str\]")),
        ("def forward(self, x: list[str]):", ["x STRING [4, 1]"],
         (InternalError, "Triton only supports 1 dimensional List of String as input for 'x' for model 'm'")),
        ("def forward(self, x: torch.Tensor):", ["I__1 FP32 [4]"],
         (InvalidArg, "'I__1' refers to argument 1, but")),
        ("def forward(self, x: torch.Tensor, y: torch.Tensor):", ["I__0 FP32 [4]", "J__0 FP32 [4]"],
         (InvalidArg, "inputs 'I__0' and 'J__0' are both number 0")),
    ],
)  # fmt: skip
def test_arguments_that_no_config_can_give(
    tmp_path: Path, pool: SlabPool, head: str, inputs: list[str], expected: tuple[type[ServerError], str]
) -> None:
    module = from_source(tmp_path / "given.py", "    return 0", head)
    with pytest.raises(expected[0], match=expected[1]):
        Loaded(write(tmp_path, module, config(inputs, ["y INT64 [1]"])), pool)


def test_optional_inputs_are_refused(tmp_path: Path, pool: SlabPool) -> None:
    text = config(*ONE).replace("dims: [4] }", "dims: [4] optional: true }", 1)
    with pytest.raises(InvalidArg, match="input 'input' is optional: the model needs it"):
        Loaded(write(tmp_path, torch.nn.ReLU(), text.replace("'x'", "'input'")), pool)


def test_names_that_follow_no_convention_are_told(
    tmp_path: Path, pool: SlabPool, caplog: pytest.LogCaptureFixture
) -> None:
    Loaded(write(tmp_path, AddSub(), config(["a FP32 [4]", "b FP32 [4]"], ["c FP32 [4]"])), pool)
    assert "input 'a' of model 'm' is neither an argument of the model nor does it follow the" in caplog.text


@pytest.mark.parametrize("count", [1, 3])
def test_intra_op_threads_are_of_the_instances_thread(tmp_path: Path, pool: SlabPool, count: int) -> None:
    before = torch.get_num_threads()
    text = config(*PAIR, rest=parameter("INTRA_OP_THREAD_COUNT", str(count)))
    found: list[int] = []

    def work() -> None:
        loaded = Loaded(write(tmp_path, AddSub(), text), pool)
        found.append(torch.get_num_threads())
        loaded.close()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [count]
    assert torch.get_num_threads() == before


def test_inter_op_threads_can_be_set_once(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from torch_models import *; import sys\n"
        "pool, root = SlabPool(1 << 20), Path(sys.argv[1])\n"
        "rest = lambda n: parameter('INTER_OP_THREAD_COUNT', n)\n"
        "text = lambda n: config(['x FP32 [4]', 'y FP32 [4]'], ['a FP32 [4]'], rest=rest(n))\n"
        "Loaded(write(root, AddSub(), text('3'), 'a'), pool)\n"
        "assert torch.get_num_interop_threads() == 3\n"
        "Loaded(write(root, AddSub(), text('3'), 'b'), pool)\n"
        "try: Loaded(write(root, AddSub(), text('2'), 'c'), pool)\n"
        "except Exception as error: print(error)\n"
    )
    here = Path(__file__).parent
    code = f"import sys; sys.path.insert(0, {str(here)!r})\n{code}"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False, cwd=here.parents[2]
    )
    assert "'INTER_OP_THREAD_COUNT' is 2, but PyTorch's inter-op pool already has 3 threads" in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("key", "value"),
    [(key, "maybe") for key in (
        "DISABLE_OPTIMIZED_EXECUTION", "INFERENCE_MODE", "ENABLE_WEIGHT_SHARING", "ENABLE_CACHE_CLEANING",
        "ENABLE_NVFUSER", "ENABLE_JIT_EXECUTOR", "ENABLE_JIT_PROFILING", "ENABLE_TENSOR_FUSER", "DISABLE_CUDNN",
    )] + [("INTRA_OP_THREAD_COUNT", value) for value in ("many", "-2", "1e3", "99999999999", "٣")]
    + [("INTER_OP_THREAD_COUNT", "1.5")],
)  # fmt: skip
def test_parameters_that_are_nothing(tmp_path: Path, pool: SlabPool, key: str, value: str) -> None:
    with pytest.raises(InvalidArg, match=f"model 'm': parameter '{key}' is '"):
        Loaded(write(tmp_path, AddSub(), config(*PAIR, rest=parameter(key, value))), pool)


@pytest.mark.parametrize("key", ["TORCH_COMPILE_OPTIONAL_PARAMETERS", "MODEL_INIT_LIBRARY"])
def test_parameters_that_are_not_supported(tmp_path: Path, pool: SlabPool, key: str) -> None:
    with pytest.raises(Unsupported, match=key):
        Loaded(write(tmp_path, AddSub(), config(*PAIR, rest=parameter(key, "x"))), pool)


def test_nvfuser_is_accepted_with_a_warning(
    tmp_path: Path, pool: SlabPool, caplog: pytest.LogCaptureFixture
) -> None:
    Loaded(write(tmp_path, AddSub(), config(*PAIR, rest=parameter("ENABLE_NVFUSER", "true"))), pool)
    assert "'ENABLE_NVFUSER' has no effect" in caplog.text


@pytest.mark.parametrize(("value", "inference"), [("true", True), ("false", False)])
def test_inference_mode(tmp_path: Path, pool: SlabPool, value: str, inference: bool) -> None:
    text = config(*ONE, rest=parameter("INFERENCE_MODE", value)).replace("'x'", "'input'")
    loaded = Loaded(write(tmp_path, torch.nn.Linear(4, 4), text), pool)
    caller = loaded.instance._caller  # type: ignore[attr-defined]
    with caller:
        assert torch.is_inference_mode_enabled() is inference
        assert not torch.is_grad_enabled()
    assert loaded.run_one(input=np.ones(4, np.float32))["y"].shape == (4,)


def test_optimized_execution_is_of_the_model(tmp_path: Path, pool: SlabPool) -> None:
    for name, rest, expected in (("a", "", True), ("b", parameter("DISABLE_OPTIMIZED_EXECUTION", "1"), False)):
        loaded = Loaded(write(tmp_path, AddSub(), config(*PAIR, rest=rest), name), pool)
        with loaded.instance._caller:  # type: ignore[attr-defined]
            assert torch._C._get_graph_executor_optimize() is expected
        assert torch._C._get_graph_executor_optimize() is True


def test_a_process_wide_setting_belongs_to_the_models_that_set_it(tmp_path: Path, pool: SlabPool) -> None:
    def load(name: str, value: str) -> Loaded:
        return Loaded(
            write(tmp_path, AddSub(), config(*PAIR, rest=parameter("ENABLE_TENSOR_FUSER", value)), name), pool
        )

    assert torch._C._jit_texpr_fuser_enabled()
    first = load("a", "false")
    assert not torch._C._jit_texpr_fuser_enabled()
    with pytest.raises(InvalidArg, match=r"'ENABLE_TENSOR_FUSER' is true, .* model 'a' is loaded with false"):
        load("b", "true")
    newer = load("newer/a", "true")
    assert torch._C._jit_texpr_fuser_enabled()
    first.close()
    assert torch._C._jit_texpr_fuser_enabled()
    newer.close()
    load("c", "true").close()


@pytest.mark.parametrize(
    "data",
    [b"", b"no archive", pickle.dumps({"a": 1}), b"PK\x03\x04" + bytes(200)],
    ids=["empty", "text", "pickle", "zip"],
)
def test_files_that_are_no_archives(tmp_path: Path, pool: SlabPool, data: bytes) -> None:
    with pytest.raises(InternalError, match=r"model 'm': 'model.pt' is not a TorchScript file") as caught:
        Loaded(write(tmp_path, data, config(*PAIR)), pool)
    assert str(tmp_path) not in caught.value.message


def saved(module: Any) -> bytes:
    buffer = io.BytesIO()
    torch.jit.save(script(module), buffer)
    return buffer.getvalue()


def test_a_truncated_file(tmp_path: Path, pool: SlabPool) -> None:
    whole = saved(torch.nn.Linear(64, 64))
    for part in (10, len(whole) // 2, len(whole) - 30):
        with pytest.raises(InternalError, match="failed to load model"):
            Loaded(write(tmp_path, whole[:part], config(*PAIR), f"m{part}"), pool)


def test_a_directory_and_a_checkpoint_are_no_model(tmp_path: Path, pool: SlabPool) -> None:
    buffer = io.BytesIO()
    torch.save({"weight": torch.zeros(3)}, buffer)
    with pytest.raises(InternalError, match=r"'model.pt' holds no model that can run"):
        Loaded(write(tmp_path, buffer.getvalue(), config(*PAIR)), pool)
    (tmp_path / "d" / "1" / "model.pt").mkdir(parents=True)
    (tmp_path / "d" / "config.pbtxt").write_text(config(*PAIR))
    with pytest.raises(InvalidArg, match=r"'model.pt' is not a file"):
        Loaded(tmp_path / "d", pool)


def test_a_module_without_forward(tmp_path: Path, pool: SlabPool) -> None:
    class Silent(torch.nn.Module):
        @torch.jit.export
        def other(self, x: torch.Tensor) -> torch.Tensor:
            return x

    with pytest.raises(InternalError, match="the module has no method 'forward'"):
        Loaded(write(tmp_path, Silent(), config(*PAIR)), pool)


def rewritten(data: bytes, change: Callable[[dict[str, bytes]], None]) -> bytes:
    """The archive with its entries changed; their names are without the folder they all lie in."""
    with zipfile.ZipFile(io.BytesIO(data)) as source:
        root = source.namelist()[0].split("/", maxsplit=1)[0]
        entries = {name.split("/", maxsplit=1)[1]: source.read(name) for name in source.namelist()}
    change(entries)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as made:
        for name, content in entries.items():
            made.writestr(f"{root}/{name}", content)
    return buffer.getvalue()


def object_as(name: str) -> Callable[[dict[str, bytes]], None]:
    """A pickled object that is on nobody's list, and does nothing."""

    def change(entries: dict[str, bytes]) -> None:
        buffer = io.BytesIO()
        torch.save((Fraction(1, 2),), buffer)
        entries[name] = buffer.getvalue()

    return change


def text_as(old: str, new: str) -> Callable[[dict[str, bytes]], None]:
    def change(entries: dict[str, bytes]) -> None:
        text = entries["models/model.json"].decode()
        assert old in text
        entries["models/model.json"] = text.replace(old, new).encode()

    return change


# One of each kind; all that is looked at: test_pytorch_archive.
REFUSED: dict[str, Callable[[dict[str, bytes]], None]] = {
    "sample inputs": object_as("data/sample_inputs/model.pt"),
    "old weights": object_as("data/weights/model.pt"),
    "function": text_as("torch.ops.aten.add.Tensor", "torch.nn.functional.relu"),
    "name": text_as('"name": "x"', '"name": "x y"'),
    "symbol": text_as("Symbol('s", "len('s') + Symbol('s"),
    "two programs": lambda entries: entries.update({"models/other.json": entries["models/model.json"]}),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_exported_program_that_could_run_more_than_a_graph_is_refused(
    tmp_path: Path, pool: SlabPool, name: str
) -> None:
    buffer = io.BytesIO()
    torch.export.save(exported_add_sub(), buffer)
    directory = write(tmp_path, rewritten(buffer.getvalue(), REFUSED[name]), None)
    (directory / "1" / "model.pt").rename(directory / "1" / "model.pt2")
    with pytest.raises(ServerError, match=r"(?s)failed to load model 'm': .") as caught:
        Loaded(directory, pool)
    assert str(tmp_path) not in caught.value.message


def test_an_archive_that_is_only_written_anew_still_loads(tmp_path: Path, pool: SlabPool) -> None:
    buffer = io.BytesIO()
    torch.export.save(exported_add_sub(), buffer)
    directory = write(tmp_path, rewritten(buffer.getvalue(), lambda entries: None), None)
    (directory / "1" / "model.pt").rename(directory / "1" / "model.pt2")
    assert Loaded(directory, pool).config.max_batch_size == 4


@pytest.mark.parametrize("entry", ["data.pkl", "constants.pkl"])
def test_an_object_in_a_torchscript_file_is_refused(tmp_path: Path, pool: SlabPool, entry: str) -> None:
    data = rewritten(
        saved(torch.nn.ReLU()), lambda entries: entries.update({entry: pickle.dumps(Fraction(1, 2), 2)})
    )
    with pytest.raises(InternalError, match="failed to load model"):
        Loaded(write(tmp_path, data, config(["input FP32 [4]"], ["y FP32 [4]"])), pool)


def test_without_pytorch_the_error_names_what_to_install() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from triton_async.backends.pytorch import PyTorchBackend\n"
        "from triton_async.protos import ModelConfig\n"
        "from pathlib import Path\n"
        "try: PyTorchBackend().inspect(Path('model.pt'), ModelConfig())\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Unavailable unable to load backend 'pytorch'")
    assert "pip install 'triton-async[pytorch]'" in done.stdout


def test_the_backend_is_registered_and_loads_nothing_by_itself() -> None:
    code = (
        "import sys; from triton_async.backends.registry import BackendRegistry\n"
        "BackendRegistry().get('pytorch'); sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert BACKEND.name == "pytorch"


@pytest.mark.parametrize(("given", "expected"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_idle_threads_wait_unless_told_otherwise(given: str | None, expected: str) -> None:
    code = "from triton_async.backends.pytorch.library import Library; Library()"
    environment = {key: value for key, value in os.environ.items() if key != "OMP_WAIT_POLICY"}
    environment |= {"OMP_DISPLAY_ENV": "TRUE"} | ({"OMP_WAIT_POLICY": given} if given else {})
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    if "OMP_WAIT_POLICY" not in done.stderr:
        pytest.skip("this PyTorch has no OpenMP that shows its settings")
    assert f"OMP_WAIT_POLICY = '{expected}'" in done.stderr
