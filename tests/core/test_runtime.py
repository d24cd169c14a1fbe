"""Outputs appear whole or not at all, keys change with their inputs, seeds are the same everywhere."""

import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.core import runtime
from lib.core.runtime import (
    atomic_folder,
    fingerprint,
    on_cores,
    progress,
    replace_folder,
    seed_for,
    work_folder,
    write_bytes,
    write_json,
)
from tests.conftest import ROOT


def fill(folder: Path, text: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "inner").mkdir()
    (folder / "inner" / "file.txt").write_text(text)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_finished_folder_takes_the_place_of_the_old_one(tmp_path: Path):
    fill(tmp_path / "out", "old")
    (tmp_path / "out" / "stale.txt").write_text("stale")
    with atomic_folder(tmp_path / "out") as folder:
        fill(folder, "new")
        assert (tmp_path / "out" / "stale.txt").exists(), "until the block ends, the old one stays"
    assert names(tmp_path / "out") == ["inner"] and (tmp_path / "out" / "inner" / "file.txt").read_text() == "new"
    assert names(tmp_path) == ["out"]


def test_a_block_that_fails_leaves_the_old_folder_and_nothing_else(tmp_path: Path):
    fill(tmp_path / "out", "old")
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "out") as folder:
        fill(folder, "half")
        raise RuntimeError
    assert names(tmp_path) == ["out"] and (tmp_path / "out" / "inner" / "file.txt").read_text() == "old"


def test_a_folder_is_made_where_there_was_none_not_even_its_parent(tmp_path: Path):
    with atomic_folder(tmp_path / "a" / "b") as folder:
        fill(folder, "new")
    assert names(tmp_path / "a") == ["b"]


def test_replacing_a_folder_moves_the_new_one_and_deletes_the_old_one(tmp_path: Path):
    fill(tmp_path / "out", "old")
    fill(tmp_path / "work", "new")
    replace_folder(tmp_path / "work", tmp_path / "out")
    assert names(tmp_path) == ["out"] and (tmp_path / "out" / "inner" / "file.txt").read_text() == "new"


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full_disk(number: int) -> None:
        raise OSError("no space left")

    write_bytes(tmp_path / "file", b"old")
    with monkeypatch.context() as patched, pytest.raises(OSError, match="no space"):
        patched.setattr(os, "fsync", full_disk)
        write_bytes(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"old" and names(tmp_path) == ["file"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_write_that_fails_leaves_no_half_file_and_is_told_with_its_name(tmp_path: Path, monkeypatch, error):
    def fail(number: int) -> None:
        raise error

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(type(error)) as raised:
        write_bytes(tmp_path / "file", b"new")
    assert names(tmp_path) == []
    if isinstance(error, OSError):
        assert str(raised.value) == f"[Errno 28] No space left on device: '{tmp_path / 'file'}'"


def test_equal_values_are_equal_json(tmp_path: Path):
    write_json(tmp_path / "a.json", {"b": 1, "a": [1.5, None, "ä"]})
    write_json(tmp_path / "b.json", {"a": (1.5, None, "ä"), "b": 1})
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert (tmp_path / "a.json").read_bytes().endswith(b"}\n")
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"b": 1, "a": [1.5, None, "ä"]}


def test_a_number_that_json_does_not_know_is_refused_and_nothing_is_written(tmp_path: Path):
    with pytest.raises(ValueError, match="nan"):
        write_json(tmp_path / "a.json", {"value": math.nan})
    assert names(tmp_path) == []


def tree(folder: Path, order: list[str]) -> Path:
    for name in order:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"content of {name}")
    return folder


def test_a_fingerprint_knows_content_and_names_but_not_the_order_of_creation_nor_the_place(tmp_path: Path):
    files = ["a.txt", "b/c.txt", "b/d.txt"]
    first = fingerprint(tree(tmp_path / "1" / "data", files))
    assert len(first) == 16 and int(first, 16) >= 0
    second = tree(tmp_path / "2" / "data", files[::-1])
    assert fingerprint(second) == first
    (second / "b" / "d.txt").rename(second / "b" / "e.txt")
    assert fingerprint(second) != first, "another name"
    (second / "b" / "e.txt").rename(second / "b" / "d.txt")
    assert fingerprint(second) == first
    (second / "b" / "d.txt").write_text("other content")
    assert fingerprint(second) != first


def test_compiled_code_is_no_part_of_a_fingerprint(tmp_path: Path):
    folder = tree(tmp_path / "lib", ["a.py"])
    before = fingerprint(folder)
    tree(folder, ["__pycache__/a.cpython-311.pyc"])
    assert fingerprint(folder) == before


def test_a_fingerprint_changes_with_a_file_and_with_params(tmp_path: Path):
    file = tree(tmp_path, ["a.txt"]) / "a.txt"
    keys = [
        fingerprint({"steps": 2}, file),
        fingerprint({"steps": 3}, file),
        fingerprint({"steps": 2}),
        fingerprint(file, {"steps": 2}),
    ]
    assert len(set(keys)) == 4
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})


values = st.none() | st.integers(-99, 99) | st.text("1,", max_size=2) | st.lists(st.integers(0, 1), max_size=2)


@settings(max_examples=50)
@given(st.lists(values, max_size=3), st.lists(values, max_size=3))
def test_different_parts_have_different_fingerprints(one: list, other: list):
    assert (fingerprint(*one) == fingerprint(*other)) == (json.dumps(one) == json.dumps(other))


def test_parts_do_not_run_into_each_other():
    assert fingerprint(1, 23) != fingerprint(12, 3)


def test_unfinished_work_is_kept_for_its_key_and_removed_for_any_other(inside: Path):
    (work_folder("stage", "a") / "file").write_text("a")
    (work_folder("other", "z") / "file").write_text("z")
    assert (work_folder("stage", "a") / "file").read_text() == "a"
    assert names(work_folder("stage", "b")) == []
    assert names(inside / ".work" / "stage") == ["b"]
    assert names(inside / ".work" / "other" / "z") == ["file"]


def test_work_that_another_process_holds_is_refused_and_free_once_it_died(inside: Path):
    hold = "import time; from lib.core.runtime import work_folder; work_folder('held', 'k'); print('held', flush=True)"
    with subprocess.Popen(
        [sys.executable, "-c", f"{hold}; time.sleep(60)"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    ) as orphan:
        assert orphan.stdout is not None and orphan.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match=f"held is already at work in process {orphan.pid}.*kill {orphan.pid}"):
            work_folder("held", "k")
        orphan.kill()
    assert work_folder("held", "k").is_dir()


def test_a_folder_from_another_file_system_takes_its_place_whole(tmp_path: Path):
    shared_memory = Path("/dev/shm")
    if not shared_memory.is_dir() or shared_memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("needs a second file system at /dev/shm")
    with tempfile.TemporaryDirectory(dir=shared_memory) as other:
        work = tree(Path(other, "work"), ["a.txt", "b/c.txt", "batch-1.jsonl", "b/c.txt.tmp-7"])
        replace_folder(work, tree(tmp_path / "out", ["old.txt"]), without=["batch-*.jsonl", "*.tmp-*"])
        assert names(Path(other)) == []
    assert names(tmp_path) == ["out"] and names(tmp_path / "out") == ["a.txt", "b"]
    assert names(tmp_path / "out/b") == ["c.txt"]


def test_a_disk_that_is_full_while_a_folder_is_copied_loses_nothing_of_it(tmp_path: Path, monkeypatch):
    def copying(source: Path, target: Path, **_: object) -> None:
        tree(Path(target), ["a.txt"])
        raise shutil.Error([(f"{source}/b.txt", f"{target}/b.txt", "[Errno 28] No space left on device")])

    shared_memory = Path("/dev/shm")
    if not shared_memory.is_dir() or shared_memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("needs a second file system at /dev/shm")
    with tempfile.TemporaryDirectory(dir=shared_memory) as other:
        work = tree(Path(other, "work"), ["a.txt", "b.txt", "batch-1.jsonl"])
        monkeypatch.setattr(shutil, "copytree", copying)
        with pytest.raises(shutil.Error, match="No space left"):
            replace_folder(work, tree(tmp_path / "out", ["old.txt"]), without=["batch-*.jsonl"])
        assert names(work) == ["a.txt", "b.txt", "batch-1.jsonl"]
    assert names(tmp_path) == ["out"] and names(tmp_path / "out") == ["old.txt"]


@pytest.mark.parametrize(("calls", "at_once"), [(1, 1), (2, 2), (3, 3), (4, 2), (7, 2)])
def test_a_call_more_than_cores_runs_with_the_others_and_many_take_turns(calls: int, at_once: int):
    before = torch.get_num_threads()
    lock, running, most = threading.Lock(), 0, 0

    def call(_: int) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.2)
        with lock:
            running -= 1

    try:
        torch.set_num_threads(2)
        on_cores(torch.device("cpu"), call, range(calls))
        assert most == at_once
    finally:
        torch.set_num_threads(before)


def test_calls_share_the_cores_keep_their_order_and_leave_the_threads_as_they_were():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        both = threading.Barrier(2, timeout=60)  # breaks unless two calls run at a time

        def call(a: int, b: int) -> tuple[int, int]:
            both.wait()
            return a + b, torch.get_num_threads()

        assert on_cores(torch.device("cpu"), call, [1, 2], [10, 20]) == [(11, 2), (22, 2)]
        share = on_cores(torch.device("cpu"), lambda _: torch.get_num_threads(), [1], out_of=2)
        assert share == [2], "what is left after a kill gets no more than in an unbroken run"
        assert torch.get_num_threads() == 4
        assert on_cores(torch.device("cuda"), lambda a: a, [1, 2]) == [1, 2]
        assert on_cores(torch.device("cpu"), lambda a: a, []) == []
    finally:
        torch.set_num_threads(before)


def test_a_seed_is_the_same_on_every_machine():
    assert seed_for(0, "good-0") == 3381728720109240417
    assert seed_for(0, "good-0") != seed_for(1, "good-0") != seed_for(1, "good-1")


@settings(max_examples=50)
@given(st.lists(st.integers() | st.text("aä/", max_size=5), max_size=3))
def test_a_seed_fits_into_63_bits(parts: list):
    assert 0 <= seed_for(*parts) < 2**63 and seed_for(*parts) == seed_for(*parts)


def test_a_progress_bar_gives_back_what_it_was_given(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch):
    assert list(progress(range(3), "count", total=5, initial=2)) == [0, 1, 2]
    assert capsys.readouterr().err == "", "a bar that is gone at once only clutters the log"
    monkeypatch.setattr(runtime, "SHOWN_AFTER", 0.0)
    assert list(runtime.progress([1, 2, 3], "count")) == [1, 2, 3]
    assert "count" in capsys.readouterr().err


@pytest.mark.parametrize(("major", "told"), [(7, "fp16"), (8, "bf16"), (9, "bf16")])  # V100 and T4, A100, H100
def test_a_gpu_that_only_emulates_bfloat16_computes_in_half_precision(monkeypatch, major: int, told: str):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda *which: SimpleNamespace(major=major))
    monkeypatch.setattr(torch.cuda, "_check_bf16_tensor_supported", lambda which: True)
    assert runtime.mixed_precision(torch.device("cuda")) == told
    assert runtime.mixed_precision(torch.device("cpu")) == "no"
