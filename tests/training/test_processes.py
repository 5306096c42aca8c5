"""Sums over processes."""

import pytest
import torch

from mithridate.training import processes
from mithridate.training.processes import Processes


@pytest.mark.parametrize("message", [1, 40, 2**28])
def test_however_a_sum_is_cut_into_messages_every_tensor_is_summed_once(message, monkeypatch):
    sent = []

    def as_two_alike(flat):
        sent.append(flat.numel())
        flat.mul_(2)

    monkeypatch.setattr(processes.distributed, "all_reduce", as_two_alike)
    monkeypatch.setattr(processes, "MESSAGE", message)
    tensors = [torch.full((size,), float(place)) for place, size in enumerate((3, 9, 0, 1, 20))]
    Processes(count=2).sum_all(tensors)
    assert [t.tolist() for t in tensors] == [[2.0 * place] * len(t) for place, t in enumerate(tensors)]
    assert sum(sent) == 33
    assert len(sent) == {1: 4, 40: 2, 2**28: 1}[message]
