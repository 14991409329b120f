"""What a config of an ensemble may say, apart from the models of its steps: Triton's rules and words."""

from __future__ import annotations

from pathlib import Path

import pytest

from triton_async.config.load import load, mistakes
from triton_async.errors import InvalidArg, ServerError

STEP = """step {{ model_name: "{0}" model_version: -1
    input_map {{ key: "X" value: "{1}" }} output_map {{ key: "Y" value: "{2}" }} }}"""


def step(takes: str = "EX", gives: str = "EY", model: str = "m") -> str:
    return STEP.format(model, takes, gives)


HEAD = 'platform: "ensemble"'


def text(*steps: str, more: str = "", inputs: str = "EX", outputs: str = "EY", head: str = HEAD) -> str:
    tensors = "".join(f'input {{ name: "{name}" data_type: TYPE_FP32 dims: -1 }}\n' for name in inputs.split())
    tensors += "".join(f'output {{ name: "{name}" data_type: TYPE_FP32 dims: -1 }}\n' for name in outputs.split())
    return f"{head}\n{more}\n{tensors}ensemble_scheduling {{\n{' '.join(steps)}\n}}\n"


def write(root: Path, config: str) -> Path:
    directory = root / "e"
    (directory / "1").mkdir(parents=True)
    (directory / "config.pbtxt").write_text(config)
    return directory


def test_an_ensemble_has_no_backend_no_instances_and_its_steps(tmp_path: Path) -> None:
    directory = write(tmp_path, text(step(gives="t"), step("t"), more="max_batch_size: 8"))
    config = load(directory, "e", inspect=lambda *_: pytest.fail("there is no model to look into"))
    assert (config.platform_or_backend, config.backend, config.instance_groups) == ("ensemble", "", ())
    assert config.ensemble is not None
    assert [(one.model_name, one.model_version) for one in config.ensemble.steps] == [("m", -1)] * 2
    assert config.ensemble.steps[1].input_map == {"X": "t"}
    assert config.ensemble.max_inflight_requests == 0
    assert not config.json().get("optimization")


@pytest.mark.parametrize("head", ["", 'platform: "ensemble"'])
def test_steps_make_an_ensemble_without_a_platform(tmp_path: Path, head: str) -> None:
    directory = write(tmp_path, text(step(), head=head))
    assert load(directory, "e", inspect=lambda *_: None).platform == "ensemble"


WRONG = {
    text(step(), head='backend: "onnxruntime"'):
        "ensemble scheduling cannot be set for model 'e' whose platform is not ensemble",
    text(step(), head='platform: "onnxruntime_onnx"'):
        "ensemble scheduling cannot be set for model 'e' whose platform is not ensemble",
    'platform: "ensemble"': "ensemble scheduling must be set for ensemble e whose platform is ensemble",
    text(step(), more="instance_group { count: 1 }"): "instance group should not be specified for ensemble 'e'",
    text(step(), more="optimization { graph { level: 1 } }"): "optimization should not be specified for ensemble 'e'",
    text(step(), more='model_warmup { name: "w" batch_size: 1 }'):
        "model_warmup can not be specified for ensemble 'e'",
    text(): "must specify 'step' for ensemble 'e'",
    text('step { input_map { key: "X" value: "EX" } output_map { key: "Y" value: "EY" } }'):
        "must specify 'model_name' in step 0 of ensemble 'e'",
    text('step { model_name: "m" output_map { key: "Y" value: "EY" } }'):
        "must specify 'input_map' in step 0 of ensemble 'e'",
    text(step(gives="t"), 'step { model_name: "m" input_map { key: "X" value: "t" } }'):
        "must specify 'output_map' in step 1 of ensemble 'e'",
    text(step(model="../m")): "model_name in step 0 of ensemble 'e'",
    text(step(takes="")): "must specify the ensemble tensor of 'X' in 'input_map' of step 0 of ensemble 'e'",
    text(step(), inputs="EX EZ"): "ensemble input 'EZ' for ensemble e' is not used",
    text(step(), outputs="EY EZ"): "ensemble output 'EZ' for ensemble e' is not used",
    text(step(), step(gives="t")): "ensemble tensor 't' is unused in ensemble 'e'",
    text(step(), step()): "ensemble tensor 'EY' can appear in an output map only once for ensemble 'e' step 1",
    text(step("b", "a"), step("a", "b"), step("b", "EY"), outputs="EX EY"):
        "output 'EY' for ensemble 'e' is not written: at least one of its depending tensors, 'a', is not connected",
    text(step("EY"), outputs="EX EY"): "output 'EY' for ensemble 'e' is not written",
    text(step("nobody"), outputs="EX EY"):
        "output 'EY' for ensemble 'e' is not written: at least one of its depending tensors, 'nobody', is not",
    text(step(), step("b", "a"), step("a", "b")): "ensemble tensor 'a' for ensemble 'e' is not written",
}  # fmt: skip


@pytest.mark.parametrize("config", WRONG, ids=WRONG.values())
def test_what_is_wrong_is_said_in_tritons_words(tmp_path: Path, config: str) -> None:
    directory = write(tmp_path, config)
    with pytest.raises(InvalidArg) as caught:
        load(directory, "e", inspect=lambda *_: None)
    assert caught.value.message.startswith(WRONG[config]) or WRONG[config] in caught.value.message
    assert caught.value.message.endswith("(in config.pbtxt)")
    assert [error.message for error in mistakes(directory, "e")].count(caught.value.message) == 1


def test_a_namespace_is_refused_by_name(tmp_path: Path) -> None:
    directory = write(tmp_path, text(step().replace("model_version", 'model_namespace: "n" model_version')))
    with pytest.raises(ServerError, match="model_namespace"):
        load(directory, "e", inspect=lambda *_: None)
