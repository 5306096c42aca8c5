"""A file of a repair's output: its hash is that of its bytes, in whatever order they came, and no failure is lost."""

import errno
import os
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from safetensors.torch import save_file

from mithridate.files import file_hash
from mithridate.models.tensor_files import read_bytes, read_header
from mithridate.repair import output_file
from mithridate.repair.output_file import Beside, OutputFile


@pytest.fixture
def beside():
    with ThreadPoolExecutor(1) as hashing, ThreadPoolExecutor(1) as syncing:
        yield Beside(hashing, syncing)


@pytest.fixture
def header(tmp_path):
    generator = torch.Generator().manual_seed(0)
    held = {f"t{i}": torch.randn(9, 17, generator=generator).bfloat16() for i in range(6)} | {"none": torch.ones(0, 4)}
    save_file(held, tmp_path / "original.safetensors", {"format": "pt"})
    return read_header(tmp_path / "original.safetensors")


@pytest.mark.parametrize("step", [1, 700, 1 << 25])
@pytest.mark.parametrize("seed", range(4))
def test_the_hash_is_that_of_the_file_whatever_the_order(header, beside, tmp_path, monkeypatch, step, seed):
    monkeypatch.setattr(output_file, "STEP", step)
    monkeypatch.setattr(output_file, "PART", 64)
    file = OutputFile(tmp_path / "copy", header, beside)
    spans = [(t, slice(row, row + 3)) for t in header.tensors.values() if t.size for row in range(0, 9, 3)]
    order = torch.randperm(len(spans), generator=torch.Generator().manual_seed(seed)).tolist()
    left_out = {order.pop(), order.pop()}
    for number in order:
        tensor, rows = spans[number]
        file.write(tensor.span(rows)[0], tensor.read(rows))
    gaps = [gap for tensor in header.tensors.values() for gap in file.gaps(tensor)]
    assert sum(end - start for start, end in gaps) == sum(spans[n][0].span(spans[n][1])[1] for n in left_out)
    for start, end in gaps:
        file.write(start, read_bytes(tmp_path / "original.safetensors", start, end - start))
    assert file.seal().sha256() == file_hash(tmp_path / "original.safetensors") == file_hash(tmp_path / "copy")


def test_a_byte_that_was_hashed_cannot_be_written_again(header, beside, tmp_path):
    file = OutputFile(tmp_path / "copy", header, beside)
    first = next(tensor for tensor in header.tensors.values() if tensor.size)
    file.write(first.start, first.read())
    with pytest.raises(AssertionError):
        file.write(first.start, first.read())
    with pytest.raises(AssertionError):
        file.seal()
    file.close()


def test_a_write_that_failed_behind_the_repair_s_back_is_not_forgotten(header, beside, tmp_path, monkeypatch):
    """The system tells of it once, to whichever call comes first."""
    monkeypatch.setattr(output_file, "STEP", 1)
    plain, told = os.fsync, []

    def failing(file):
        if not told:
            told.append(True)
            raise OSError(errno.ENOSPC, "No space left on device")
        plain(file)

    monkeypatch.setattr(os, "fsync", failing)
    file = OutputFile(tmp_path / "copy", header, beside)
    for tensor in header.tensors.values():
        file.write(tensor.start, tensor.read())
    sealed = file.seal()
    assert sealed.failed
    with pytest.raises(OSError, match="No space"):
        sealed.sha256()


def test_a_file_that_is_cut_meanwhile_has_no_hash(header, beside, tmp_path):
    file = OutputFile(tmp_path / "copy", header, beside)
    os.truncate(tmp_path / "copy", 100)
    for tensor in list(header.tensors.values())[:1]:
        file._whole = tensor.start  # as if it were written
    file._follow(1)
    file._whole = header.size
    with pytest.raises(OSError, match="was cut while it was written"):
        file.seal().sha256()


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="the system has no such call")
def test_no_byte_leaves_the_cache_before_it_was_hashed_and_has_reached_the_disk(header, beside, tmp_path, monkeypatch):
    """And at the end all of them do, so that the next file's pages are at hand."""
    dropped, synced = [], []
    plain = os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: (plain(file), synced.append(file)))

    def dropping(file, start, size, advice):
        assert (start, advice) == (0, os.POSIX_FADV_DONTNEED)
        assert file in synced
        assert size <= copy._digested
        dropped.append(size)

    monkeypatch.setattr(os, "posix_fadvise", dropping)
    copy = OutputFile(tmp_path / "copy", header, beside)
    monkeypatch.setattr(output_file, "STEP", 1)
    for tensor in header.tensors.values():
        copy.write(tensor.start, tensor.read())
    sealed = copy.seal()
    assert sealed.sha256() == file_hash(tmp_path / "original.safetensors")
    assert dropped[-1] == 0, "all of it"
