"""The page at `/` in a real browser: models, the form, the commands beside it, plots, and who may see what."""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import browser
import numpy as np
import pytest
from browser import Tab, browser_tab
from PIL import Image
from server_process import ServerProcess
from started import CONFIG, started

pytestmark = pytest.mark.skipif(browser.EXECUTABLE is None, reason="there is no chromium here")

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "examples" / "ocr" / "sample.png"
MODEL_IS_SHOWN = "document.querySelector('.try .snippet')?.textContent"
ANSWER = "document.querySelector('.answer').innerText"
RUN = "document.querySelector('.try button[type=submit]').click()"
# What would show that a text has become markup or code.
HARM = "<img src=x onerror=window.harmed=1><script>window.harmed=1<\\/script>\"'`${window.harmed=1}"

FAILS = """
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        given = requests[0].inputs()[0].as_numpy()
        text = given[0].decode()
        if text.startswith("fail"):
            return [pb_utils.InferenceResponse(error=pb_utils.TritonError(text)) for _ in requests]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("<b onclick='harmed=1'>out</b>", given)])]
"""
FAILS_CONFIG = """
    backend: "python"
    input { name: "<i onmouseover='harmed=1'>in</i>" data_type: TYPE_STRING dims: 1 }
    output { name: "<b onclick='harmed=1'>out</b>" data_type: TYPE_STRING dims: 1 }
"""


def visit(url: str, steps: Callable[[Tab], Awaitable[None]], complaints: bool = False) -> None:
    """Goes to an address in a browser and does the steps; nothing may have gone wrong in it, or gone elsewhere."""

    async def main() -> None:
        async with browser_tab() as tab:
            await tab.open(url)
            await steps(tab)
            assert complaints or not tab.complaints
            origin = url.split("#", maxsplit=1)[0]
            elsewhere = [each for each in tab.requests if not each.startswith((origin, "data:", "about:", "blob:"))]
            assert not elsewhere
            assert await tab.evaluate("window.harmed") is None

    asyncio.run(main())


async def show(tab: Tab, model: str) -> None:
    """Chooses a model, and returns when its form is there."""
    await tab.evaluate(f"location.hash = encodeURIComponent({json.dumps(model)})")
    await tab.wait_for(f"document.querySelector('#model h2')?.textContent == {json.dumps(model)} && {MODEL_IS_SHOWN}")


async def write(tab: Tab, input_name: str, text: str) -> None:
    """Writes the values of an input."""
    await set_value(tab, f"state.form.inputs.find((each) => each.name == {json.dumps(input_name)}).text", text)


async def press(tab: Tab, text: str, place: str = "document") -> None:
    """Presses a button by its text."""
    buttons = f"[...{place}.querySelectorAll('button')]"
    await tab.evaluate(f"{buttons}.find((each) => each.textContent == {json.dumps(text)}).click()")


async def set_value(tab: Tab, element: str, value: str) -> None:
    """Writes into an element, as a person does."""
    await tab.evaluate(f"""(() => {{
        const place = {element};
        place.value = {json.dumps(value)};
        place.dispatchEvent(new Event('input'));
        place.dispatchEvent(new Event('change'));
    }})()""")


async def first(tab: Tab, selector: str) -> str:
    """The text of an element."""
    return str(await tab.evaluate(f"document.querySelector({json.dumps(selector)}).textContent"))


async def run_model(tab: Tab) -> str:
    """What the model answers to what the form has."""
    await tab.evaluate("document.querySelector('.answer').replaceChildren()")
    await tab.evaluate(RUN)
    await tab.wait_for(f"{ANSWER} && !document.querySelector('.try button[type=submit]').disabled")
    return str(await tab.evaluate(ANSWER))


async def snippets(tab: Tab, folder: Path) -> tuple[str, str]:
    """The command and the script, with the file that the command may need in `folder`."""
    await asyncio.sleep(0.4)  # they follow the form a moment later
    curl, python = await tab.evaluate("[...document.querySelectorAll('.snippet')].map((each) => each.textContent)")
    file = await tab.evaluate("""(async () => {
        const link = document.querySelector('a[download]:not([hidden])');
        if (!link) return '';
        const bytes = new Uint8Array(await tabFile.arrayBuffer());
        let text = '';
        for (const byte of bytes) text += String.fromCharCode(byte);
        return btoa(text);
    })()""") if await tab.evaluate("Boolean(window.tabFile = state.form.curl.blob)") else ""  # fmt: skip
    if file:
        (folder / "request.bin").write_bytes(base64.b64decode(file))
    return curl, python


def shell(command: str, folder: Path) -> str:
    done = subprocess.run(
        ["sh", "-c", command], cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def python(script: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_models_are_listed_and_one_is_run(server: ServerProcess) -> None:
    async def steps(tab: Tab) -> None:
        await tab.wait_for("document.querySelectorAll('.model').length > 5")
        listed = await tab.evaluate("[...document.querySelectorAll('.model .name')].map((each) => each.textContent)")
        index = await tab.evaluate("fetch('v2/repository/index', {method: 'POST'}).then((each) => each.json())")
        assert listed == list(dict.fromkeys(row["name"] for row in index))
        await show(tab, "simple")
        text = await tab.text()
        assert "INPUT0\tINT32\t[-1, 16]" in text
        assert "READY" in text
        await write(tab, "INPUT0", json.dumps([[1] * 16, [5] * 16]))
        await write(tab, "INPUT1", json.dumps([[2] * 16, [3] * 16]))
        answer = await run_model(tab)
        assert "OUTPUT0 INT32 [2, 16]" in answer
        assert "  ".join(["8"] * 16) in answer
        await tab.wait_for("document.querySelector('.totals').textContent.includes('requests')")

    visit(f"http://{server.http_url}/", steps)


def test_values_that_do_not_fit_are_told_before_anything_is_sent(server: ServerProcess) -> None:
    async def steps(tab: Tab) -> None:
        await show(tab, "simple")
        for values, said in {
            "[1, 2": "INPUT0: the values are no JSON", "[1, 2]": "INPUT0: 2 values do not fill",
            json.dumps([2**31] * 16): f"INPUT0: {2**31} is no INT32",
            json.dumps([0.5] * 16): "INPUT0: 0.5 is no whole number",
            json.dumps(["x"] * 16): 'INPUT0: "x" is no number', json.dumps([True] * 16): "INPUT0: true is no number",
        }.items():  # fmt: skip
            await write(tab, "INPUT0", values)
            assert said in await run_model(tab)
            assert "# INPUT0: " in (await snippets(tab, Path()))[0]
        infers = [each for each in tab.requests if each.endswith("/infer")]
        assert not infers

    visit(f"http://{server.http_url}/#simple", steps)


def test_the_command_and_the_script_do_the_same(server: ServerProcess, tmp_path: Path) -> None:
    async def steps(tab: Tab) -> None:
        await show(tab, "simple")
        curl, script = await snippets(tab, tmp_path)
        assert json.loads(shell(curl, tmp_path))["outputs"][0]["data"] == [2 * each for each in range(16)]
        assert "30]]" in python(script, tmp_path)
        await show(tab, "identity_bytes")
        text = "it's \"quoted\" \\ $(id) `id` é 😀\nline"
        await write(tab, "INPUT0", text)
        await run_model(tab)
        curl, script = await snippets(tab, tmp_path)
        assert json.loads(shell(curl, tmp_path))["outputs"][0]["data"] == [text]
        assert repr(text.encode()) in python(script, tmp_path)
        await show(tab, "identity_fp32")
        await press(tab, "Random", "document.querySelector('.input')")
        for at, length in enumerate(("2", "300")):
            await set_value(tab, f"document.querySelectorAll('.dim')[{at}]", length)
        curl, script = await snippets(tab, tmp_path)
        assert "request.bin" in curl
        (output,) = json.loads(shell(curl, tmp_path))["outputs"]
        assert output["shape"] == [2, 300]
        assert 0.3 < np.mean(output["data"]) < 0.7
        assert "np.random.random((2, 300))" in script
        python(script, tmp_path)

    visit(f"http://{server.http_url}/#simple", steps)


def test_a_picture_becomes_a_tensor(server: ServerProcess, tmp_path: Path) -> None:
    """The script beside the form does the same with Pillow: both must send the network the same numbers."""
    generator = np.random.default_rng(3)
    picture = tmp_path / "picture.png"
    Image.fromarray(generator.integers(0, 256, (224, 224, 3), np.uint8)).save(picture)

    async def steps(tab: Tab) -> None:
        await show(tab, "resnet18")
        await press(tab, "File", "document.querySelector('.input')")
        await tab.choose_file(".input input[type=file]", picture)
        await tab.wait_for("document.querySelector('.input').textContent.includes('224 × 224 pixels')")
        answer = await run_model(tab)
        assert answer.count("class_") == 5
        sent = await tab.evaluate("Array.from(state.form.inputs[0].read().values.slice(0, 1000))")
        expected = np.asarray(Image.open(picture), np.float32).transpose(2, 0, 1).ravel()[:1000] / 255
        assert np.allclose(sent, expected, atol=1e-6)
        _, script = await snippets(tab, tmp_path)
        lines = python(script, tmp_path)
        assert await first(tab, ".class span") in lines
        await set_value(tab, "document.querySelector('.input select')", "ImageNet")
        sent = await tab.evaluate("Array.from(state.form.inputs[0].read().values.slice(0, 1000))")
        assert np.allclose(sent, (expected - 0.485) / 0.229, atol=1e-5)
        python((await snippets(tab, tmp_path))[1], tmp_path)

    visit(f"http://{server.http_url}/#resnet18", steps)


def test_a_file_is_an_element_of_a_model_that_takes_bytes(server: ServerProcess, tmp_path: Path) -> None:
    async def steps(tab: Tab) -> None:
        await show(tab, "read_text")
        await press(tab, "File", "document.querySelector('.input')")
        await tab.choose_file(".input input[type=file]", SAMPLE)
        await tab.wait_for("document.querySelector('.input').textContent.includes('KiB')")
        answer = await run_model(tab)
        assert "TEXT BYTES" in answer
        assert "CORNERS FP32" in answer
        script = (await snippets(tab, tmp_path))[1]
        (tmp_path / SAMPLE.name).write_bytes(SAMPLE.read_bytes())
        assert "[" in python(script, tmp_path)

    visit(f"http://{server.http_url}/#read_text", steps)


def test_a_stream_of_responses_is_shown_as_it_comes(server: ServerProcess, tmp_path: Path) -> None:
    async def steps(tab: Tab) -> None:
        await show(tab, "text_generator")
        values = {"prompt": "The old sailor", "max_words": "[12]", "temperature": "[0.8]", "seed": "[1]"}
        for name in await tab.evaluate("state.form.inputs.map((each) => each.name)"):
            await write(tab, name, values[name])
        answer = await run_model(tab)
        assert len(answer.split()) >= 6
        assert "12 responses" in await tab.evaluate("document.querySelector('.state').textContent")
        curl, script = await snippets(tab, tmp_path)
        assert shell(curl, tmp_path).count("data: ") == 12
        assert python(script, tmp_path).count("{") == 12

    visit(f"http://{server.http_url}/#text_generator", steps)


def test_the_plots_follow_what_happens(server: ServerProcess) -> None:
    async def steps(tab: Tab) -> None:
        await show(tab, "identity_fp32")
        await press(tab, "Repeat", "document.querySelector('.try')")
        await tab.wait_for("Number(document.querySelector('.plot strong').textContent) > 0")
        headlines = "[...document.querySelectorAll('.plot strong')]"
        await tab.wait_for(f"{headlines}.every((each) => /[0-9]/.test(each.textContent))")
        await tab.wait_for("document.querySelector('.bar b')?.textContent == '1'")
        await tab.wait_for("/s$/.test(document.querySelector('.model.chosen .rate').textContent)")
        await press(tab, "Stop", "document.querySelector('.try')")
        await tab.wait_for("document.querySelector('.plot strong').textContent == '0'")
        points = await tab.evaluate("document.querySelector('.plot polyline').getAttribute('points')")
        assert len(points.split()) >= 2

    visit(f"http://{server.http_url}/#identity_fp32", steps)


def test_what_models_are_called_and_say_stays_text(tmp_path: Path) -> None:
    names = ["<img src=x onerror=harmed=1>", "a'b\"c`${harmed=1}", "{{scripts}}", "javascript:harmed=1", "a&lt;b"]
    for name in names:
        (tmp_path / "models" / name / "1").mkdir(parents=True)
        (tmp_path / "models" / name / "config.pbtxt").write_text(CONFIG)
    (tmp_path / "models" / "fails" / "1").mkdir(parents=True)
    (tmp_path / "models" / "fails" / "config.pbtxt").write_text(FAILS_CONFIG)
    (tmp_path / "models" / "fails" / "1" / "model.py").write_text(FAILS)
    (tmp_path / "models" / "<b>broken" / "1").mkdir(parents=True)
    (tmp_path / "models" / "<b>broken" / "config.pbtxt").write_text('backend: "<img src=x onerror=harmed=1>"')

    async def steps(tab: Tab) -> None:
        await tab.wait_for("document.querySelectorAll('.model').length")
        for name in names:
            await show(tab, name)
            assert "INPUT0" in await run_model(tab) or "OUTPUT0" in await tab.evaluate(ANSWER), name
            curl, script = await snippets(tab, tmp_path)
            assert json.loads(shell(curl, tmp_path))["model_name"] == name
            assert python(script, tmp_path).startswith("[")
        await show(tab, "fails")
        name = "<i onmouseover='harmed=1'>in</i>"
        await write(tab, name, f"fail {HARM}")
        assert HARM in await run_model(tab)
        await write(tab, name, HARM)
        answer = await run_model(tab)
        assert HARM in answer
        assert "<b onclick='harmed=1'>out</b> BYTES" in answer
        await tab.evaluate(f"location.hash = encodeURIComponent({json.dumps('<b>broken')})")
        await tab.wait_for("document.querySelector('#model').textContent.includes('<img src=x onerror=harmed=1>')")
        # Nothing but the page's own elements.
        assert not await tab.evaluate("document.querySelectorAll('img, b[onclick], iframe, object').length")
        await tab.evaluate("location.hash = '<img src=x onerror=harmed=1>%zz'")
        await asyncio.sleep(0.2)

    with started(tmp_path, f"--model-repository={tmp_path / 'models'}", "--exit-on-error=false",
                 "--backend-config=python,isolation=none") as server:  # fmt: skip
        server.wait_until_it_answers()
        # Calls that fail are lines on the browser's console.
        visit(f"http://127.0.0.1:{server.http_port}/", steps, complaints=True)


def test_a_policy_keeps_markup_from_running_even_if_it_got_in(server: ServerProcess) -> None:
    async def steps(tab: Tab) -> None:
        for attempt in (
            "document.body.innerHTML = '<img src=x onerror=harmed=1>'", "eval('window.harmed = 1')",
            "document.body.append(Object.assign(document.createElement('script'), {text: 'window.harmed = 1'}))",
            "document.body.append(Object.assign(new Image(), {src: 'http://127.0.0.1:1/x'}))",
        ):  # fmt: skip
            await tab.evaluate(f"(() => {{ try {{ {attempt} }} catch {{}} }})()")
        assert await tab.evaluate("fetch('http://127.0.0.1:1/').then(() => 'sent', () => 'refused')") == "refused"
        said = "\n".join(tab.complaints)
        for directive in ("TrustedHTML", "TrustedScript", "img-src", "connect-src"):
            assert directive in said, said
        tab.requests.clear()

    visit(f"http://{server.http_url}/", steps, complaints=True)


@pytest.mark.parametrize("options", [
    ("--api-key-file=keys",),
    ("--http-restricted-api=model-repository,statistics,inference,metadata,model-config:x-team=blue",),
])  # fmt: skip
def test_a_reader_sees_what_he_may_see(tmp_path: Path, options: tuple[str, ...]) -> None:
    (tmp_path / "models" / "m" / "1").mkdir(parents=True)
    (tmp_path / "models" / "m" / "config.pbtxt").write_text(CONFIG)
    (tmp_path / "keys").write_text("very secret\n")

    async def steps(tab: Tab) -> None:
        await tab.wait_for("document.querySelector('#list-note').textContent")
        note = await tab.evaluate("document.querySelector('#list-note').textContent")
        assert "an API key is required" in note or "This API is restricted" in note
        assert not await tab.evaluate("document.querySelectorAll('.model').length")
        await press(tab, "Access")
        await set_value(tab, "document.querySelector('#key')", "very secret")
        await set_value(tab, "document.querySelector('#headers')", "x-team: blue")
        await press(tab, "Use", "document.querySelector('#access')")
        await show(tab, "m")
        assert "OUTPUT0" in await run_model(tab)
        curl, script = await snippets(tab, tmp_path)
        assert "secret" not in curl + script
        assert "$API_KEY" in curl
        kept = "localStorage.length + sessionStorage.length + document.cookie.length"
        assert not await tab.evaluate(kept)

    with started(tmp_path, f"--model-repository={tmp_path / 'models'}", *options) as server:
        server.wait_until_it_answers(path="/")
        visit(f"http://127.0.0.1:{server.http_port}/", steps, complaints=True)


def test_one_restricted_call_hides_only_what_it_shows(tmp_path: Path) -> None:
    (tmp_path / "models" / "m" / "1").mkdir(parents=True)
    (tmp_path / "models" / "m" / "config.pbtxt").write_text(CONFIG)

    async def steps(tab: Tab) -> None:
        # Without the index models are known by their statistics.
        await show(tab, "m")
        assert "OUTPUT0" in await run_model(tab)
        assert "This API is restricted, expecting header 'x-team'" in await tab.evaluate(
            "document.querySelector('#list-note').textContent")  # fmt: skip
        assert not await tab.evaluate("document.querySelector('#by-name').hidden")

    option = "--http-restricted-api=model-repository:x-team=blue"
    with started(tmp_path, f"--model-repository={tmp_path / 'models'}", option) as server:
        server.wait_until_it_answers()
        visit(f"http://127.0.0.1:{server.http_port}/", steps, complaints=True)


def test_numbers_are_those_of_numpy(server: ServerProcess) -> None:
    """Tensors as the page reads and writes them, over all values of two bytes and the bounds of the others."""

    async def steps(tab: Tab) -> None:
        halves = np.arange(1 << 16, dtype=np.uint16)
        read = await tab.evaluate("Array.from({length: 65536}, (_, bits) => String(fromHalf(bits)))")
        expected = halves.view(np.float16).astype(np.float64)
        assert np.array_equal(np.array(read, np.float64), expected, equal_nan=True)
        read = await tab.evaluate("Array.from({length: 65536}, (_, bits) => String(fromBrain(bits)))")
        with np.errstate(invalid="ignore"):
            expected = (halves.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
        assert np.array_equal(np.array(read, np.float64), expected, equal_nan=True)
        values = np.random.default_rng(1).standard_normal(2000).astype(np.float32) * np.float32(10.0) ** np.arange(
            -20, 20, 0.02, dtype=np.float32)  # fmt: skip
        written = await tab.evaluate(f"{json.dumps([float(each) for each in values])}.map(toHalf)")
        with np.errstate(over="ignore"):
            assert written == values.astype(np.float16).view(np.uint16).tolist()
        for datatype, dtype in {"INT8": np.int8, "UINT16": np.uint16, "INT64": np.int64, "UINT64": np.uint64}.items():
            limits = np.iinfo(dtype)
            text = f"[{limits.min}, {limits.max}]"
            encoded = await tab.evaluate(f"Array.from(encodeTensor('{datatype}', parseValues('{text}')))")
            assert bytes(encoded) == np.array([limits.min, limits.max], dtype).tobytes()
            back = await tab.evaluate(f"Array.from(decodeTensor('{datatype}', new Uint8Array({encoded})), String)")
            assert [int(each) for each in back] == [limits.min, limits.max]
            over = f"[{int(limits.max) + 1}]"
            encode = f"new Promise((done) => done(encodeTensor('{datatype}', parseValues('{over}'))))"
            assert "is no" in await tab.evaluate(f"{encode}.then(() => '', (problem) => problem.message)")
        cases = "[[[null, 4], 8], [[null, null], 8], [[2, null, null], 8], [[], 1]]"
        shapes = await tab.evaluate(f"{cases}.map(([wanted, count]) => resolveShape(wanted, count))")
        assert shapes == [[2, 4], [1, 8], [2, 1, 4], []]
        tops = await tab.evaluate("[0, NaN, 0.013, 1, 9.5, 9.99, 10, 9999, 1e9].map((each) => niceTop(each))")
        assert tops == pytest.approx([1, 1, 0.015, 1.5, 10, 15, 15, 15000, 1.5e9])

    visit(f"http://{server.http_url}/", steps)
