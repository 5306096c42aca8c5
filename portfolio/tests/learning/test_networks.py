import pytest
import torch

from pairfolio.config import NetworkSettings
from pairfolio.learning.networks import Allocator

KINDS = ["lstm", "gru", "tcn", "tabl", "mlp"]


def network(kind: str, start: float = 0.5, window: int = 24) -> Allocator:
    torch.manual_seed(0)
    plan = NetworkSettings.model_validate({"kind": kind, "hidden": 8, "window": window, "dropout": 0.3})
    return Allocator(5, plan, start)


@pytest.mark.parametrize("kind", KINDS)
def test_an_untrained_network_holds_the_anchor(kind: str) -> None:
    weights = network(kind, 0.37)(torch.randn(11, 24, 5))
    torch.testing.assert_close(weights, torch.full((11,), 0.37))


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_shares_and_depend_on_the_whole_window(kind: str) -> None:
    net = network(kind).eval()
    torch.nn.init.normal_(net.head.weight)
    windows = torch.randn(11, 24, 5, requires_grad=True)
    weights = net(windows)
    assert weights.shape == (11,)
    assert bool(((weights > 0) & (weights < 1)).all())
    assert float(weights.detach().std()) > 0
    (seen,) = torch.autograd.grad(weights.sum(), windows)
    assert bool((seen.abs().sum(dim=(0, 2)) > 0).all())


@pytest.mark.parametrize("kind", KINDS)
def test_rows_do_not_touch_each_other(kind: str) -> None:
    net = network(kind).eval()
    torch.nn.init.normal_(net.head.weight)
    windows = torch.randn(6, 24, 5)
    changed = windows.clone()
    changed[3:] += 1
    assert torch.equal(net(windows)[:3], net(changed)[:3])


@pytest.mark.parametrize("window", [2, 3, 16, 33])
def test_the_convolutions_cover_any_window(window: int) -> None:
    net = network("tcn", window=window).eval()
    torch.nn.init.normal_(net.head.weight)
    windows = torch.randn(4, window, 5, requires_grad=True)
    (seen,) = torch.autograd.grad(net(windows).sum(), windows)
    assert bool((seen[:, 0].abs().sum() > 0).all())


@pytest.mark.parametrize("start", [0.0, 1.0])
def test_a_start_in_a_corner_can_still_move(start: float) -> None:
    weights = network("mlp", start)(torch.randn(3, 24, 5))
    assert 0.005 < float(weights.detach().mean()) < 0.995
