"""Result files are whole or absent; the manifest knows which are stale."""

import errno
import json
import multiprocessing
import os
import sys

import numpy as np
import pandas as pd
import pytest

from attention_rhythm import files
from attention_rhythm.errors import ReproError
from attention_rhythm.files import locked
from attention_rhythm.provenance import environment
from evaluation.settings import Run
from pipeline import manifest
from pipeline.manifest import Manifest, differences


def full_disk(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


WRITES = {
    "a.txt": lambda path: files.write_text(path, "new"),
    "a.json": lambda path: files.write_json(path, {"new": 1}),
    "a.jsonl": lambda path: files.write_jsonl(path, [{"new": 1}]),
    "a.csv": lambda path: files.write_table(path, pd.DataFrame({"new": [1]})),
    "a.parquet": lambda path: files.write_table(path, pd.DataFrame({"new": [1]})),
    "a.npz": lambda path: files.write_npz(path, new=np.ones(3)),
}


@pytest.mark.parametrize("name", WRITES)
def test_a_write_replaces_the_file_and_leaves_nothing_beside_it(tmp_path, name):
    (tmp_path / name).write_text("old")
    WRITES[name](tmp_path / name)
    assert os.listdir(tmp_path) == [name]
    assert (tmp_path / name).read_bytes() != b"old"


@pytest.mark.parametrize("name", WRITES)
def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch, name):
    (tmp_path / name).write_text("old")
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        WRITES[name](tmp_path / name)
    assert os.listdir(tmp_path) == [name]
    assert (tmp_path / name).read_text() == "old"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux has this device")
def test_a_partial_file_on_a_full_disk_raises():
    with pytest.raises(OSError, match="No space left"):
        files.append_jsonl("/dev/full", {"a": 1})


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path):
    folder = tmp_path / "signals"
    with files.atomic_folder(folder) as temporary:
        (temporary / "old").write_text("old")
    with pytest.raises(RuntimeError), files.atomic_folder(folder) as temporary:
        (temporary / "new").write_text("new")
        raise RuntimeError
    assert os.listdir(folder) == ["old"]
    with files.atomic_folder(folder) as temporary:
        (temporary / "new").write_text("new")
    assert os.listdir(folder) == ["new"]
    assert os.listdir(tmp_path) == ["signals"]


def test_json_is_sorted_plain_and_has_no_nan(tmp_path):
    path = tmp_path / "a.json"
    files.write_json(path, {"b": np.float32(0.5), "a": [float("nan"), np.arange(2)], "c": {"d": (True, None)}})
    assert path.read_text().startswith('{\n "a": [\n  null')
    assert json.loads(path.read_text()) == {"a": [None, [0, 1]], "b": 0.5, "c": {"d": [True, None]}}
    with pytest.raises(ValueError, match="JSON compliant"):
        files.write_json(path, {"a": float("inf")})
    assert json.loads(path.read_text())["b"] == 0.5


def test_tables_and_arrays_are_read_back_exactly(tmp_path):
    frame = pd.DataFrame({"x": [0.1, 1 / 3, np.nan], "s": ["a,b", 'c"', "d\n"]})
    files.write_table(tmp_path / "a.csv", frame)
    files.write_table(tmp_path / "a.parquet", frame)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "a.csv"), frame, check_exact=True)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "a.parquet"), frame, check_exact=True, check_dtype=False)
    files.write_npz(tmp_path / "a.npz", x=np.arange(3), name="α")
    with np.load(tmp_path / "a.npz", allow_pickle=False) as arrays:
        assert arrays["x"].tolist() == [0, 1, 2]
        assert str(arrays["name"]) == "α"
    with pytest.raises(ValueError, match="pickled: x"):
        files.write_npz(tmp_path / "b.npz", x=[{}])
    with pytest.raises(ValueError, match=r"\.csv or \.parquet"):
        files.write_table(tmp_path / "a.xlsx", frame)


def test_a_half_written_last_line_is_dropped_and_the_file_goes_on(tmp_path):
    path = tmp_path / "a.partial"
    assert files.resume_jsonl(path) == []
    files.append_jsonl(path, {"i": 0, "text": "a\u2028b"}, {"i": 1})
    with open(path, "ab") as file:
        file.write('{"i": 2, "text": "é'.encode()[:-1])  # killed in the middle of a character
    assert [record["i"] for record in files.resume_jsonl(path)] == [0, 1]
    files.append_jsonl(path, {"i": 2})
    assert [record["i"] for record in files.resume_jsonl(path)] == [0, 1, 2]


def test_a_partial_file_with_no_whole_line_is_empty(tmp_path):
    (tmp_path / "a").write_text('{"i": 0')
    assert files.resume_jsonl(tmp_path / "a") == []


@pytest.mark.parametrize(
    ("text", "message"),
    [(b'{"a": 1}\n{"a": \n', "line 2: not valid JSON"), (b"\xff\n", "not UTF-8")],
)
def test_a_malformed_file_is_named(tmp_path, text, message):
    (tmp_path / "a.jsonl").write_bytes(text)
    with pytest.raises(ReproError, match=f"a.jsonl.*{message}"):
        files.read_jsonl(tmp_path / "a.jsonl")
    with pytest.raises(ReproError, match=r"a\.jsonl"):
        files.read_json(tmp_path / "a.jsonl")
    with pytest.raises(ReproError, match="no such file"):
        files.read_json(tmp_path / "b.json")


def test_a_folder_hash_sees_names_and_bytes_but_not_hidden_files(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a").write_text("1")
    first = files.sha256_path(tmp_path)
    (tmp_path / ".tmp-1-a").write_text("2")
    assert files.sha256_path(tmp_path) == first
    (tmp_path / "sub" / "a").rename(tmp_path / "sub" / "b")
    assert files.sha256_path(tmp_path) != first


def test_a_run_has_a_place_for_its_files(tmp_path):
    run = Run(tmp_path / "r", mark="f" * 64)
    assert run.path("tables", "a.md").parent.is_dir()
    assert run.partial("x.jsonl").name == ".x.jsonl.ffffffffffffffff.partial"


# ---------------------------------------------------------------------------------------- manifest


def test_the_manifest_tells_fresh_stale_changed_and_missing(tmp_path):
    (tmp_path / "a").write_text("1")
    (tmp_path / "b").write_text("2")
    outputs = {name: files.sha256_path(tmp_path / name) for name in ("a", "b")}
    made = {"settings": {"n": 1}, "data": {"d.jsonl": "x"}}
    assert Manifest.load(tmp_path).problems("s", made) == ("never ran", [])
    Manifest.load(tmp_path).record("s", {"made_of": made, "outputs": outputs})
    record = Manifest.load(tmp_path)
    assert record.problems("s", made) == (None, [])
    assert record.problems("s", made | {"settings": {"n": 2}}) == ("setting n: 1 when it was made, now 2", [])
    (tmp_path / "a").write_text("3")
    assert record.problems("s", made) == ("a changed on disk", [])
    (tmp_path / "a").unlink()
    assert record.problems("s", made) == (None, ["a"])
    assert record.output_hash("a") == outputs["a"]  # of a file that is gone: what was recorded
    assert record.output_hash("c") is None
    record.record("s", {"fingerprint": "f", "outputs": outputs})
    assert record.problems("s", made) == ("recorded by an older version", ["a"])


def test_what_differs_is_named_part_by_part():
    made = {"model": "m", "settings": {"a": 1, "b": [2]}, "code": {"x.py": "1"}, "data": {"d.jsonl": "x"}}
    assert differences(made, made) == []
    assert differences(made, made | {"model": "n"}) == ["model changed"]
    assert differences(made, made | {"settings": {"a": 1, "c": 3}}) == [
        "setting b: [2] when it was made, now None", "setting c: None when it was made, now 3"
    ]  # fmt: skip
    assert differences(made, made | {"code": {"x.py": "2", "y.py": "1"}}) == ["code x.py changed", "code y.py new"]
    assert differences(made, made | {"data": {}}) == ["data file d.jsonl gone"]
    assert differences(made, made | {"data": None}) == []  # not known here: what was recorded stands
    assert differences(made | {"data": None}, made) == ["data changed"]


def _hold(folder, held, release):
    with locked(folder):
        held.set()
        release.wait(30)


def test_a_second_run_is_refused_and_a_dead_one_is_not(tmp_path):
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    held, release = context.Event(), context.Event()
    holder = context.Process(target=_hold, args=(tmp_path, held, release))
    holder.start()
    assert held.wait(30)
    with pytest.raises(ReproError, match=f"another run .process {holder.pid}. is writing there"), locked(tmp_path):
        pass
    holder.kill()
    holder.join()
    with locked(tmp_path):
        pass


@pytest.fixture
def sources(tmp_path, monkeypatch):
    """A tiny repository: analysis.run imports evaluation.sub.one, and that imports two; analysis.other is alone."""
    texts = {
        "evaluation/__init__.py": "",
        "evaluation/sub/__init__.py": "",
        "evaluation/sub/one.py": "def f():\n    from . import two\n    return two.x\n",
        "evaluation/sub/two.py": "x = 1\n",
        "analysis/__init__.py": "",
        "analysis/run.py": '"""Doc."""\nimport os\nfrom evaluation.sub.one import f\n',
        "analysis/other.py": "y = 1\n",
    }
    for name, text in texts.items():
        files.write_text(tmp_path / name, text)
    monkeypatch.setattr(manifest, "ROOT", tmp_path)

    def change(name, text):
        files.write_text(tmp_path / name, text)
        manifest.code_of.cache_clear()
        return manifest.code_of("analysis.run")

    yield change
    manifest.code_of.cache_clear()


def test_the_code_hash_follows_imports_and_ignores_comments(sources):
    first = sources("analysis/other.py", "y = 2\n")
    assert sources("analysis/run.py", "import os  # why\n\nfrom evaluation.sub.one import f\n") == first
    assert sources("evaluation/sub/two.py", '"""Doc."""\nx = 1\n') == first
    assert sources("evaluation/sub/two.py", "x = 2\n") != first
    assert sources("evaluation/sub/two.py", "x = 1\n") == first
    assert sources("evaluation/sub/__init__.py", "z = 1\n") != first
    assert sources("evaluation/sub/__init__.py", '"""Only a doc."""\n') == first
    assert first.keys() == {"analysis/run.py", "evaluation/sub/one.py", "evaluation/sub/two.py"}
    under = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import analysis.other\nx = 1\n"
    assert "analysis/other.py" not in sources("evaluation/sub/two.py", under)


def test_the_environment_names_no_place_or_person():
    text = json.dumps(environment())
    for word in filter(None, [os.path.expanduser("~"), str(manifest.ROOT), os.environ.get("HOSTNAME")]):
        assert word not in text
    assert environment()["packages"]["numpy"] == np.__version__
