from itertools import pairwise

import numpy as np
import pandas as pd

from pairfolio.data.candles import check_frame
from pairfolio.data.synthetic import phases, synthetic_pair


def test_the_pair_is_opposed_and_well_formed() -> None:
    pair = synthetic_pair()
    assert pair.findings.correlation < -0.9
    assert pair.interval == pd.Timedelta("4h")
    assert pair.spot_returns is not None
    assert np.corrcoef(pair.returns[:, 0], pair.spot_returns)[0, 1] > 0.9
    for frame in pair.frames:
        check_frame("synthetic", frame)


def test_the_same_seed_gives_the_same_prices() -> None:
    np.testing.assert_array_equal(synthetic_pair(100).returns, synthetic_pair(100).returns)
    assert not np.array_equal(synthetic_pair(100, seed=8).returns, synthetic_pair(100).returns)


def test_only_a_planted_signal_foretells() -> None:
    def foretold(signal: float) -> float:
        returns = synthetic_pair(20_000, signal=signal, drift=False).returns[:, 0]
        return float(np.corrcoef(returns[1:], returns[:-1])[0, 1])

    assert abs(foretold(0.0)) < 0.03
    assert foretold(0.5) > 0.2


def test_phases_cover_the_span_in_order() -> None:
    times = synthetic_pair(200).times
    parts = phases(times)
    assert parts[0][1] == times[0]
    assert parts[-1][2] == times[-1]
    assert all(left[2] == right[1] for left, right in pairwise(parts))
