"""Checkpoints: what is saved comes back, and what was touched is refused."""

import json

import pytest
import torch

from mithridate.errors import CheckpointError, DefenseError
from mithridate.training import state


@pytest.fixture
def sealed(tmp_path):
    folder = tmp_path / "checkpoint-3"
    (folder / "deeper").mkdir(parents=True)
    (folder / "weights.bin").write_bytes(bytes(range(200)))
    (folder / "deeper" / "note.txt").write_text("note")
    state.seal(folder)
    return folder


def test_a_sound_checkpoint_is_accepted(sealed):
    state.verify(sealed)
    assert set(json.loads((sealed / state.MANIFEST).read_text())) == {"weights.bin", "deeper/note.txt"}


@pytest.mark.parametrize("place", [0, 99, 199])
def test_one_flipped_bit_is_refused(sealed, place):
    content = bytearray((sealed / "weights.bin").read_bytes())
    content[place] ^= 1
    (sealed / "weights.bin").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"weights\.bin was altered or cut"):
        state.verify(sealed)


def test_missing_and_cut_files_are_refused(sealed):
    (sealed / "weights.bin").write_bytes(b"")
    with pytest.raises(CheckpointError, match="altered or cut"):
        state.verify(sealed)
    (sealed / "weights.bin").unlink()
    with pytest.raises(CheckpointError, match=r"weights\.bin is missing"):
        state.verify(sealed)


@pytest.mark.parametrize("damage", [b"", b"{", b"\xff\xfe", b'{"weights.bin": "00"}'])
def test_a_damaged_list_is_refused(sealed, damage):
    (sealed / state.MANIFEST).write_bytes(damage)
    with pytest.raises(CheckpointError):
        state.verify(sealed)


def test_an_unfinished_checkpoint_is_not_the_newest(sealed, tmp_path):
    (tmp_path / "checkpoint-12").mkdir()
    (tmp_path / "checkpoint-x").mkdir()
    assert state.newest_finished(tmp_path) == sealed
    state.seal(tmp_path / "checkpoint-12")
    assert state.newest_finished(tmp_path) == tmp_path / "checkpoint-12"
    assert state.newest_finished(tmp_path / "nowhere") is None


def test_figures_tensors_and_lists_come_back(tmp_path):
    kept = {
        "lambda": 4.75, "name": "x", "sums": torch.arange(3, dtype=torch.float64),
        "epsilon": [torch.full((2, i % 3 + 1), float(i), dtype=torch.bfloat16) for i in range(12)],
    }  # fmt: skip
    state.save_state(tmp_path, kept)
    found = state.load_state(tmp_path)
    assert (found["lambda"], found["name"]) == (4.75, "x")
    assert torch.equal(found["sums"], kept["sums"])
    assert len(found["epsilon"]) == 12
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(found["epsilon"], kept["epsilon"], strict=True))


def test_a_folder_of_another_program_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="not written by DefendedTrainer"):
        state.load_state(tmp_path)


def test_a_name_that_would_come_back_as_another_is_refused(tmp_path):
    with pytest.raises(DefenseError, match=r"the name 'defense\.a/b'; a name there must not hold '/'"):
        state.save_state(tmp_path, {"defense.a/b": torch.ones(2)})
