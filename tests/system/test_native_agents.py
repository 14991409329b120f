"""Repository agents that are shared libraries, in real servers: what they hear, move, and refuse."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import native_libraries
import pytest
from server_process import ServerProcess, poll, running_server
from storages import S3_ENVIRONMENT, bucket, put, s3_server

pytestmark = native_libraries.needs_compiler

TENSORS = """
    input { name: "INPUT0" data_type: TYPE_INT32 dims: 1 }
    output { name: "OUTPUT0" data_type: TYPE_INT32 dims: 1 }
"""


def agent(name: str, **parameters: str) -> str:
    listed = " ".join(f'parameters {{ key: "{key}" value: "{value}" }}' for key, value in parameters.items())
    return f'agents {{ name: "{name}" {listed} }}'


def write(root: Path, name: str, *agents: str, more: str = "") -> None:
    (root / name / "1").mkdir(parents=True)
    (root / name / "config.pbtxt").write_text(
        f'backend: "identity" max_batch_size: 4 {TENSORS} {more} '
        f"model_repository_agents {{ {' '.join(agents)} }}"
    )


def call(server: ServerProcess, path: str, body: Any = None) -> tuple[int, Any]:
    data = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(
            urllib.request.Request(f"http://{server.http_url}/v2/{path}", data), timeout=60
        ) as answer:
            text = answer.read()
            return answer.status, json.loads(text) if text else None
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())["error"]


def load(server: ServerProcess, model: str, action: str = "load") -> tuple[int, Any]:
    return call(server, f"repository/models/{model}/{action}", {})


def answer(server: ServerProcess, model: str) -> list[int]:
    body = {"inputs": [{"name": "INPUT0", "datatype": "INT32", "shape": [1, 1], "data": [7]}]}
    status, said = call(server, f"models/{model}/infer", body)
    assert status == 200, said
    data: list[int] = said["outputs"][0]["data"]
    return data


def test_agents_hear_of_loads_and_unloads_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agents, models, journal, temporary = (tmp_path / name for name in ("agents", "models", "journal", "temporary"))
    native_libraries.build(agents / "teller" / "libtritonrepoagent_teller.so", "agent.c")
    temporary.mkdir()
    write(models, "told", agent("teller", tag="one"), agent("teller", tag="two", do="complain"))
    write(models, "moved", agent("teller", tag="mover", do="move"))
    write(models, "released", agent("teller", tag="releaser", do="release"))
    monkeypatch.setenv("AGENT_JOURNAL", str(journal))
    monkeypatch.setenv("TMPDIR", str(temporary))

    def lines(tag: str) -> list[str]:
        return [line.partition(" ")[2] for line in journal.read_text().splitlines() if line.startswith(f"{tag} ")]

    def both() -> list[str]:
        return [line for line in journal.read_text().splitlines() if line.startswith(("one ", "two "))]

    options = [f"--repoagent-directory={agents}", "--model-control-mode=explicit"]
    with running_server([models], tmp_path, options) as server:
        assert load(server, "told") == (200, None)
        assert both() == ["one ModelInitialize", "one LOAD", "two ModelInitialize", "two LOAD", "two LOAD_COMPLETE",
                          "one LOAD_COMPLETE"]  # fmt: skip
        assert answer(server, "told") == [7]
        journal.write_text("")
        # A load anew: what served goes once the new one is there.
        with open(models / "told" / "config.pbtxt", "a") as config:
            config.write("\n# changed")
        assert load(server, "told") == (200, None)
        poll(lambda: "one ModelFinalize" in both(), "the end of what served", 20)
        assert both()[:4] == ["one ModelInitialize", "one LOAD", "two ModelInitialize", "two LOAD"]
        completed = ["two LOAD_COMPLETE", "one LOAD_COMPLETE"]
        ends = ["one UNLOAD", "two UNLOAD", "two UNLOAD_COMPLETE", "one UNLOAD_COMPLETE", "two ModelFinalize",
                "one ModelFinalize"]  # fmt: skip
        assert [line for line in both()[4:] if line in completed] == completed
        assert [line for line in both()[4:] if line not in completed] == ends
        journal.write_text("")
        assert load(server, "told", "unload") == (200, None)
        poll(lambda: "one ModelFinalize" in both(), "the model's end", 20)
        assert both() == ends

        assert load(server, "moved") == (200, None)
        assert call(server, "models/moved/config")[1]["max_batch_size"] == 7
        assert answer(server, "moved") == [7]
        folder = Path(lines("mover")[3])
        assert lines("mover")[2] == "Unexpected artifact type, expects 'TRITONREPOAGENT_ARTIFACT_FILESYSTEM'"
        assert folder.parent == temporary
        assert (folder / "config.pbtxt").exists()
        assert load(server, "moved", "unload") == (200, None)
        poll(lambda: not folder.exists(), "the folder to be removed", 20)

        assert load(server, "released") == (200, None)
        assert lines("releaser")[2:4] == ["removed", "No mutable location to be deleted"]
        server.stop()
    assert lines("releaser")[-3:] == ["UNLOAD", "UNLOAD_COMPLETE", "ModelFinalize"]
    assert lines("-") == ["Finalize"]
    assert "moved too late" not in journal.read_text()
    assert not list(temporary.glob("triton_async_agent_*"))


def test_files_stay_as_long_as_a_version_of_them_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agents, models, journal, temporary = (tmp_path / name for name in ("agents", "models", "journal", "temporary"))
    native_libraries.build(agents / "teller" / "libtritonrepoagent_teller.so", "agent.c")
    temporary.mkdir()
    write(models, "moved", agent("teller", tag="mover", do="move"), more="""
        version_policy { all { } }
        parameters { key: "execute_delay_ms" value { string_value: "1500" } }""")
    (models / "moved" / "2").mkdir()
    monkeypatch.setenv("AGENT_JOURNAL", str(journal))
    monkeypatch.setenv("TMPDIR", str(temporary))
    options = [f"--repoagent-directory={agents}", "--model-control-mode=explicit"]
    with running_server([models], tmp_path, options) as server, ThreadPoolExecutor() as pool:
        assert load(server, "moved") == (200, None)
        slow = pool.submit(answer, server, "moved/versions/1")
        time.sleep(0.3)  # until it runs
        assert load(server, "moved", "unload")[0] == 200
        (folder,) = temporary.glob("triton_async_agent_*")
        poll(lambda: "mover UNLOAD\n" in journal.read_text(), "the unload to be told of", 20)
        assert not slow.done() and folder.exists() and "UNLOAD_COMPLETE" not in journal.read_text()
        assert slow.result(20) == [7]
        poll(lambda: not folder.exists(), "the folder to be removed", 20)
        assert journal.read_text().count("UNLOAD_COMPLETE") == 1


def test_what_goes_wrong_fails_the_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agents, models, journal = tmp_path / "agents", tmp_path / "models", tmp_path / "journal"
    for name, defines in (("teller", ()), ("unwilling", ("FAIL_INITIALIZE",))):
        native_libraries.build(agents / name / f"libtritonrepoagent_{name}.so", "agent.c", *defines)
    native_libraries.build(agents / "partial" / "libtritonrepoagent_partial.so", "identity.c")
    (agents / "text").mkdir()
    (agents / "text" / "libtritonrepoagent_text.so").write_text("no library")
    write(models, "nowhere", agent("nowhere"))
    write(models, "partial", agent("partial"))
    write(models, "text", agent("text"))
    write(models, "unwilling", agent("unwilling"))
    write(models, "outside", agent("../teller"))
    write(models, "fail_model", agent("teller", tag="a"), agent("teller", tag="b", do="fail_model"))
    write(models, "refuse", agent("teller", tag="c"), agent("teller", tag="d", do="refuse"))
    write(models, "moved_away", agent("teller", do="nowhere"))
    write(models, "bucket", agent("teller", do="bucket", where="somewhere"))
    write(models, "broken", agent("teller", tag="e"), more="instance_group { count: 1 kind: KIND_GPU }")
    expected = {
        "nowhere": "unable to find 'libtritonrepoagent_nowhere.so' of repository agent 'nowhere' in the repository "
                   "agent directory",
        "partial": "unable to find required entrypoint 'TRITONREPOAGENT_ModelAction' in agent library "
                   "'libtritonrepoagent_partial.so'",
        "text": "unable to load shared library: libtritonrepoagent_text.so: ",
        "unwilling": "the agent does not want to",
        "outside": "repository agent",
        "fail_model": "the agent does not want this model",
        "refuse": "the agent refuses the model",
        "moved_away": "repository agent 'teller' has moved model 'moved_away' to what is no folder",
        "bucket": "a repository agent has named a remote location that is none",
        "broken": "",
    }  # fmt: skip
    monkeypatch.setenv("AGENT_JOURNAL", str(journal))
    options = [f"--repoagent-directory={agents}", "--model-control-mode=explicit"]
    with running_server([models], tmp_path, options) as server:
        for model, text in expected.items():
            status, error = load(server, model)
            assert status in (400, 500), (model, error)
            assert text in error, (model, error)
            assert str(tmp_path) not in error
    lines = journal.read_text().splitlines()
    assert [line for line in lines if line[0] in "ab"] == [
        "a ModelInitialize", "a LOAD", "b ModelInitialize", "b ModelFinalize", "a LOAD_FAIL", "a ModelFinalize",
    ]  # fmt: skip
    assert [line for line in lines if line[0] in "cd"] == [
        "c ModelInitialize", "c LOAD", "d ModelInitialize", "d LOAD", "d LOAD_FAIL", "c LOAD_FAIL", "d ModelFinalize",
        "c ModelFinalize",
    ]  # fmt: skip
    assert [line for line in lines if line[0] == "e"] == [
        "e ModelInitialize", "e LOAD", "e LOAD_FAIL", "e ModelFinalize",
    ]  # fmt: skip


def reasons(server: ServerProcess) -> dict[str, str]:
    return {row["name"]: row.get("reason", "") for row in call(server, "repository/index", {})[1]}


@pytest.mark.parametrize("at", ["LOAD", "LOAD_COMPLETE", "UNLOAD", "UNLOAD_COMPLETE", "initialize"])
def test_an_agent_that_hangs_holds_up_its_own_models_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    agents, models, journal, gate = (tmp_path / name for name in ("agents", "models", "journal", "gate"))
    native_libraries.build(agents / "teller" / "libtritonrepoagent_teller.so", "agent.c")
    name = "stuck" if at == "initialize" else "teller"
    if at == "initialize":
        native_libraries.build(agents / "stuck" / "libtritonrepoagent_stuck.so", "agent.c", "HANG_INITIALIZE")
    stuck = [f"stuck_{number}" for number in range(5)]
    for model in stuck:
        write(models, model, agent(name, tag=model, do="hang", at=at))
    write(models, "plain", agent("teller", tag="plain"))
    monkeypatch.setenv("AGENT_JOURNAL", str(journal))
    monkeypatch.setenv("AGENT_GATE", str(gate))
    options = [f"--repoagent-directory={agents}", "--model-control-mode=explicit", "--model-load-thread-count=1"]
    with running_server([models], tmp_path, options) as server, ThreadPoolExecutor(8) as pool:
        loads = [pool.submit(load, server, model) for model in stuck]
        if at.startswith("UNLOAD"):
            assert [one.result(30) for one in loads] == [(200, None)] * 5
            assert [load(server, model, "unload") for model in stuck] == [(200, None)] * 5
        poll(lambda: journal.exists() and " hangs" in journal.read_text(), "an agent to hang", 20)
        for _ in range(2):
            assert load(server, "plain") == (200, None)
            assert answer(server, "plain") == [7]
            assert load(server, "plain", "unload") == (200, None)
            poll(lambda: reasons(server)["plain"] == "unloaded", "the model to be gone", 20)
        assert not any(reasons(server)[model] == "unloaded" for model in stuck)
        gate.touch()
        assert [one.result(30) for one in loads] == [(200, None)] * 5
        if at.startswith("UNLOAD"):
            poll(lambda: all(reasons(server)[model] == "unloaded" for model in stuck), "all to be gone", 20)
        else:
            assert answer(server, "stuck_4") == [7]
        server.stop()


def test_an_agent_whose_library_does_not_come_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loader of the system takes one library after the other: others may wait for it, but not the loop."""
    agents, models, journal, gate = (tmp_path / name for name in ("agents", "models", "journal", "gate"))
    native_libraries.build(agents / "stuck" / "libtritonrepoagent_stuck.so", "agent.c", "HANG_LOADED")
    write(models, "stuck", agent("stuck", tag="stuck"))
    write(models, "plain", "")
    monkeypatch.setenv("AGENT_JOURNAL", str(journal))
    monkeypatch.setenv("AGENT_GATE", str(gate))
    options = [f"--repoagent-directory={agents}", "--model-control-mode=explicit"]
    with running_server([models], tmp_path, options) as server, ThreadPoolExecutor(1) as pool:
        assert load(server, "plain") == (200, None)
        assert answer(server, "plain") == [7]
        stuck = pool.submit(load, server, "stuck")
        poll(lambda: journal.exists() and " hangs" in journal.read_text(), "the library to hang", 20)
        assert answer(server, "plain") == [7]
        gate.touch()
        assert stuck.result(30) == (200, None)
        assert answer(server, "stuck") == [7]
        server.stop()


def test_models_are_moved_to_object_storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agents, models, copies = tmp_path / "agents", tmp_path / "models", tmp_path / "copies"
    native_libraries.build(agents / "teller" / "libtritonrepoagent_teller.so", "agent.c")
    copies.mkdir()
    for name, value in S3_ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TRITON_AWS_MOUNT_DIRECTORY", str(copies))
    with s3_server(tmp_path) as address:
        config = f'backend: "identity" max_batch_size: 3 {TENSORS}'
        put(bucket(address), {"there/kept/config.pbtxt": config.encode(), "there/kept/1/file": b"content"})
        where = f"s3://{address}/bucket/there"
        write(models, "moved", agent("teller", do="bucket", where=f"{where}/kept"))
        write(models, "lost", agent("teller", do="bucket", where=f"{where}/lost"))
        options = [f"--repoagent-directory={agents}", "--model-control-mode=explicit"]
        with running_server([models], tmp_path, options) as server:
            assert load(server, "lost")[0] in (400, 500)
            assert load(server, "moved") == (200, None)
            assert call(server, "models/moved/config")[1]["max_batch_size"] == 3
            assert answer(server, "moved") == [7]
            assert list(copies.rglob("config.pbtxt"))
            assert load(server, "moved", "unload") == (200, None)
            poll(lambda: not list(copies.rglob("config.pbtxt")), "the copy to go", 20)
