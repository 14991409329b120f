"""What repositories hold: directories and links of all kinds, and when a model counts as changed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from triton_async.core.files import LocalRoot, RenamedRoot, find, fingerprint, of_version, scan, survey
from triton_async.errors import InternalError, InvalidArg, NotFound


def make(path: Path, text: str = "x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_directories_and_links_to_them_are_models(tmp_path: Path) -> None:
    root, other = tmp_path / "root", tmp_path / "other"
    for path in (root / "a" / "1", root / "b", root / ".hidden", other / "b", other / "c", tmp_path / "away"):
        path.mkdir(parents=True)
    make(root / "file")
    (root / "link").symlink_to(tmp_path / "away")
    (root / "dangling").symlink_to(tmp_path / "nowhere")
    (root / "circle").symlink_to(root / "circle")
    os.mkfifo(root / "pipe")
    os.mkdir(os.fsencode(root) + b"/\xff")
    one, two = LocalRoot(root), LocalRoot(other)
    assert scan([one, two]) == {"a": [one], "b": [one, two], "link": [one], "c": [two]}


def test_folders_of_file_systems_and_interpreters_are_no_models(tmp_path: Path) -> None:
    for name in ("lost+found", "__pycache__", "m"):
        (tmp_path / name / "1").mkdir(parents=True)
    root = LocalRoot(tmp_path)
    assert scan([root]) == {"m": [root]}
    assert find([root], "lost+found") == []
    assert survey([root]) == [
        f"ignore '{tmp_path}/__pycache__', which is no model", f"ignore '{tmp_path}/lost+found', which is no model",
    ]  # fmt: skip


def test_a_repository_that_is_gone_is_named_in_the_log_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(InternalError, match=r"^failed to read a model repository: No such file or directory$"):
        scan([LocalRoot(tmp_path / "secret")])
    assert "secret" in caplog.text


@pytest.mark.parametrize("name", ["", ".", "..", "a/1", "/", "\0", "\ud800", "x" * 5000, "file", "nope"])
def test_names_that_no_model_has(tmp_path: Path, name: str) -> None:
    (tmp_path / "a" / "1").mkdir(parents=True)
    make(tmp_path / "file")
    root = LocalRoot(tmp_path)
    assert find([root], name) == []
    assert find([root, root], "a") == [root, root]


def test_the_fingerprint_changes_with_every_file(tmp_path: Path) -> None:
    model = make(tmp_path / "m" / "1" / "deep" / "weights").parents[2]
    seen = {fingerprint(model)}
    assert fingerprint(model) in seen
    changes = [
        lambda: make(model / "config.pbtxt"),
        lambda: make(model / "1" / "deep" / "weights", "other"),
        lambda: os.utime(model / "1" / "deep" / "weights", ns=(1, 1)),
        lambda: (model / "1").rename(model / "2"),
        lambda: make(model / "2" / "deep" / "new"),
        (model / "2" / "deep" / "new").unlink,
        (model / "3").mkdir,
    ]
    for count, change in enumerate(changes, 2):
        change()
        seen.add(fingerprint(model))
        assert len(seen) == count


def test_links_count_as_what_they_lead_to(tmp_path: Path) -> None:
    weights = make(tmp_path / "weights")
    kept = make(tmp_path / "store" / "kept" / "weights")
    model = tmp_path / "m"
    (model / "1").mkdir(parents=True)
    (model / "1" / "linked").symlink_to(weights)
    (model / "1" / "nowhere").symlink_to(tmp_path / "none")
    (model / "2").symlink_to(tmp_path / "store")
    (model / "3").symlink_to(tmp_path / "store")
    before = fingerprint(model)
    files = {f"{version}/kept{path}" for version in (2, 3) for path in ("", "/weights")}
    assert {row[0] for row in before} == {"1", "1/linked", "2", "3"} | files
    weights.write_text("longer than before")
    after = fingerprint(model)
    assert after != before
    # As a program leaves it that writes into the file that is there.
    kept.write_text("other, and longer")
    assert fingerprint(model) != after
    assert all(of_version(fingerprint(model), version) != of_version(after, version) for version in (2, 3))
    assert fingerprint(tmp_path / "none") == ()


def test_links_may_lead_in_circles(tmp_path: Path) -> None:
    model = make(tmp_path / "m" / "1" / "deep" / "weights").parents[2]
    (model / "1" / "up").symlink_to(model)
    (model / "1" / "deep" / "again").symlink_to(model / "1")
    (model / "1" / "itself").symlink_to("itself")
    assert {row[0] for row in fingerprint(model)} == {
        "1", "1/deep", "1/deep/again", "1/deep/weights", "1/up",
    }  # fmt: skip


def test_a_repository_may_give_its_models_other_names(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        make(tmp_path / name / "1" / "model", name)
    root = RenamedRoot(LocalRoot(tmp_path), {"a": "new", "b": "c", "gone": "nowhere"})
    assert sorted(root.names()) == ["c", "new"]  # the folder c is hidden by the name that b has
    assert [name for name in ("a", "b", "c", "new", "gone", "nowhere") if root.has(name)] == ["c", "new"]
    assert root.fetch("c").directory == tmp_path / "b" and root.fetch("new").directory == tmp_path / "a"
    assert root.fingerprint("c") == fingerprint(tmp_path / "b")
    assert root.fingerprints(["c", "new"]) == {"c": fingerprint(tmp_path / "b"), "new": fingerprint(tmp_path / "a")}
    assert root.local and str(root) == str(tmp_path) and root.survey() == []
    with pytest.raises(NotFound, match="another name"):
        root.fetch("a")
    for names in ({"a": "x", "b": "x"}, {"a": "../x"}, {"a": ""}):
        with pytest.raises(InvalidArg):
            RenamedRoot(LocalRoot(tmp_path), names)
