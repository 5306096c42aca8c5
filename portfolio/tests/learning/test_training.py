import numpy as np
import pytest
import torch

from pairfolio.config import Settings, override
from pairfolio.data.synthetic import synthetic_pair
from pairfolio.evaluation.ledger import settle
from pairfolio.evaluation.metrics import sharpe
from pairfolio.learning.training import Sample, decide, score, time_blocks, train
from pairfolio.learning.walkforward import walk_forward

PER_YEAR = 2191.5


def noise_sample(bars: int, seed: int, ratio: float = 1.0) -> Sample:
    """Windows that say nothing about opposed returns of correlation −1."""
    make = torch.Generator().manual_seed(seed)
    spot = 0.02 * torch.randn(bars, generator=make)
    spot = spot - spot.mean()
    windows = torch.randn(bars, 6, 3, generator=make)
    return Sample(windows, torch.stack([spot, -ratio * spot], dim=1))


def plan(**changes: object) -> Settings:
    base = {
        "network.kind": "mlp",
        "network.hidden": 8,
        "network.window": 6,
        "training.block": 100,
        "training.learning_rate": 0.02,
    }
    return override(Settings(), base | {name.replace("__", "."): value for name, value in changes.items()})


def test_equal_seeds_give_equal_networks() -> None:
    samples = noise_sample(300, 0), noise_sample(80, 1)
    settings = plan(training__epochs=3)
    networks = [train(*samples, settings, seed=seed).network for seed in (4, 4, 5)]
    weights = [decide(network, samples[1].windows) for network in networks]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_training_leaves_the_global_generator_alone() -> None:
    state = torch.get_rng_state()
    train(noise_sample(300, 0), noise_sample(80, 1), plan(training__epochs=1), seed=0)
    assert torch.equal(state, torch.get_rng_state())


def test_the_best_validated_epoch_is_kept() -> None:
    settings = plan(training__epochs=12, training__patience=4, loss__term="none")
    samples = noise_sample(400, 2), noise_sample(120, 3)
    trained = train(*samples, settings, seed=0)
    assert trained.epoch == int(np.argmax(trained.validation))
    assert score(trained.network, samples[1], settings.loss.fee) == trained.validation[trained.epoch]
    assert len(trained.validation) - 1 - trained.epoch <= 4


def test_without_early_stop_the_last_epoch_is_kept() -> None:
    settings = plan(training__epochs=5, training__early_stop=False)
    trained = train(noise_sample(400, 2), noise_sample(120, 3), settings, seed=0)
    assert trained.epoch == 5
    assert len(trained.validation) == 6


def test_blocks_are_contiguous_and_disjoint() -> None:
    for seed in range(50):
        torch.manual_seed(seed)
        blocks = time_blocks(1000, 180)
        covered = np.concatenate([np.arange(block.start, block.stop) for block in blocks])
        assert len(np.unique(covered)) == len(covered) > 800
        assert all(90 <= block.stop - block.start <= 180 for block in blocks)
    assert time_blocks(50, 180) == [slice(0, 50)]


@pytest.mark.parametrize("ratio", [1.0, 2.0])
def test_a_large_strength_holds_the_minimum_variance_weight(ratio: float) -> None:
    """At correlation −1 that is sd_B/(sd_A + sd_B).

    There the risk falls to zero with the distance d from w*, so the Sharpe ratio pulls outward like 1/d
    against the term's 2λd: the balance is at d ≈ 1/√(2λ), which asks for a λ far above what real pairs need.
    """
    farthest = []
    for strength in (1e6, 0.0):
        changes = {"loss.strength": strength, "training.learning_rate": 0.005}
        settings = override(plan(training__epochs=40, training__early_stop=False), changes)
        trained = train(noise_sample(400, 0, ratio), noise_sample(100, 1, ratio), settings, seed=0)
        weights = decide(trained.network, noise_sample(200, 2, ratio).windows)
        farthest.append(float((weights - ratio / (1 + ratio)).abs().max()))
    assert farthest[0] < 0.01
    assert farthest[1] > 0.05


def traded(signal: float, seed: int) -> tuple[float, float]:
    """Net Sharpe of the network without a term and of half/half, both after fees."""
    pair = synthetic_pair(1500, signal=signal, drift=False, seed=seed)
    changes: dict[str, object] = {
        "features.horizons": (1, 2),
        "features.volume_bars": 4,
        "network.window": 4,
        "loss.term": "none",
        "walk.train_days": 100,
        "walk.validation_days": 30,
        "walk.test_days": 60,
        "seeds": (0,),
    }
    settings = override(plan(training__epochs=15), changes)
    walk = walk_forward(pair, settings)
    tested = pair.returns[walk.decisions[0] : walk.decisions[-1] + 1]
    nets = [settle(weights, tested, 0.00075).net for weights in (walk.weights[0], np.full(len(tested), 0.5))]
    ours, half = (sharpe(net, PER_YEAR) for net in nets)
    assert ours is not None
    assert half is not None
    return ours, half


@pytest.mark.parametrize("signal", [0.3, -0.3])
def test_a_planted_signal_is_found_and_beats_half_after_fees(signal: float) -> None:
    ours, half = traded(signal, seed=1)
    assert ours > 2
    assert ours > half + 3


def test_in_noise_nothing_is_found() -> None:
    pairs = np.array([traded(0.0, seed) for seed in range(5)])
    ahead = pairs[:, 0] - pairs[:, 1]
    assert ahead.mean() < 2 * ahead.std(ddof=1) / np.sqrt(len(ahead))


def test_a_stronger_term_spreads_the_weight_less() -> None:
    """The large version on real pairs is in experiments/."""
    pair = synthetic_pair(700, seed=5)
    spreads = []
    for strength in (0.0, 0.3, 1.0, 3.0, 10.0):
        changes = {
            "loss.strength": strength,
            "training.early_stop": False,
            "training.epochs": 15,
            "walk.train_days": 60,
            "walk.validation_days": 5,
            "walk.test_days": 20,
            "seeds": (0, 1),
        }
        weights = walk_forward(pair, override(plan(), changes)).weights
        spreads.append(float(weights.std(axis=1).mean()))
    assert spreads == sorted(spreads, reverse=True)
    assert spreads[-1] < 0.6 * spreads[0]
