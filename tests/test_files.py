"""Files are whole or not there."""

import json
import os
from pathlib import Path

import pytest

from mithridate.files import write_json, write_whole


def test_writing_json_leaves_no_half_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})
    with pytest.raises(TypeError):
        write_json(path, {"new": object()})
    assert json.loads(path.read_text()) == {"old": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_fails_halfway_keeps_the_old_file_and_leaves_nothing_beside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "deep" / "a.bin"
    write_whole(path, b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]


def test_what_a_kill_left_beside_a_file_is_written_over(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.with_name("a.bin.part").write_bytes(b"half of it")
    write_whole(path, b"all of it")
    assert path.read_bytes() == b"all of it"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_left_beside_a_file_leads_no_bytes_elsewhere(tmp_path: Path) -> None:
    path, other = tmp_path / "a.bin", tmp_path / "other"
    other.write_bytes(b"other")
    path.with_name("a.bin.part").symlink_to(other)
    write_whole(path, b"all of it")
    assert (path.read_bytes(), other.read_bytes(), path.is_symlink()) == (b"all of it", b"other", False)
