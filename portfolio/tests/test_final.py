"""The span set aside: read by no choice, evaluated once, every look recorded; and the choice before it."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pairfolio.backtest import Run, run_backtest
from pairfolio.config import Settings, override
from pairfolio.data.pair import Pair
from pairfolio.errors import SettingsError
from pairfolio.evaluation.ledger import settle
from pairfolio.evaluation.metrics import sharpe
from pairfolio.evaluation.uncertainty import deflated_sharpe
from pairfolio.figures import traded_returns
from pairfolio.final import earlier_looks, refuse_second_look, with_final
from pairfolio.learning.walkforward import make_folds, walk_forward
from pairfolio.report.verdict import verdict
from pairfolio.selection import candidates, choose
from pairfolio.sources import DataOptions, load

START = "2030-01-25T00:00:00Z"
GRID = {"networks": ("mlp", "tabl"), "strengths": (0.0, 3.0)}


@pytest.fixture
def settings(tiny: Settings, tmp_path: Path) -> Settings:
    record = str(tmp_path / "record.jsonl")
    final = {"start": START, "record": record}
    return override(tiny, {"seeds": (0,), "rolling.refit_days": 60.0, "selection": GRID, "final": final})


@pytest.fixture
def run(small_pair: Pair, settings: Settings) -> Run:
    """Of the earlier span, with nothing to choose."""
    return run_backtest(small_pair, override(settings, {"selection": None, "loss.term": "none"}))


@pytest.fixture
def files(tmp_path: Path, small_pair: Pair) -> tuple[Path, Path]:
    paths = tmp_path / "A.csv", tmp_path / "B.csv"
    for path, frame in zip(paths, small_pair.frames[:2], strict=True):
        frame.set_axis(frame.index.strftime("%Y-%m-%dT%H:%M:%SZ")).to_csv(path, index_label="open_time")
    return paths


def spoil(path: Path, first: str) -> None:
    """Other prices from `first` on, a split and a crash among them."""
    table = pd.read_csv(path)
    late = table["open_time"] >= first
    assert 0 < late.sum() < len(late)
    factor = np.where(np.arange(late.sum()) < 10, 0.5, 40.0)
    for column in ("open", "high", "low", "close"):
        table.loc[late, column] *= factor
    table.loc[late, "volume"] += 7.0
    table.to_csv(path, index=False)


def earlier_run(files: tuple[Path, Path], settings: Settings) -> Run:
    return run_backtest(load(DataOptions(files), settings.final_start)[0], settings)


def told(run: Run) -> str:
    """All results but the hashes of the files, which name the bytes of the whole file."""
    findings = run.results.data
    unnamed = [file.model_copy(update={"sha256": None}) for file in findings.files]
    data = findings.model_copy(update={"files": unnamed})
    return run.results.model_copy(update={"data": data}).model_dump_json()


def test_bars_set_aside_change_nothing_before_the_final_test(
    files: tuple[Path, Path], settings: Settings
) -> None:
    settings = override(settings, {"selection": {"networks": ("mlp",), "strengths": (0.0, 3.0)}})
    before = earlier_run(files, settings)
    for path in files:
        spoil(path, START)
    assert told(earlier_run(files, settings)) == told(before)
    assert before.times[-1] < pd.Timestamp(START)
    assert "are set aside and were not read" in " ".join(verdict(before.results))
    # The day before does matter.
    spoil(files[0], "2030-01-24T00:00:00Z")
    assert told(earlier_run(files, settings)) != told(before)


def test_the_final_test_trades_the_choice_on_its_bars_alone(small_pair: Pair, settings: Settings) -> None:
    run = run_backtest(small_pair, settings)
    final = with_final(run, small_pair).results.final
    assert final is not None
    first = list(small_pair.times).index(pd.Timestamp(START))
    walk = walk_forward(small_pair, run.results.settings, first_test=first)
    assert walk.decisions == range(first, len(small_pair.times) - 1)
    assert final.tested.first == START
    net = settle(walk.weights.mean(axis=0), traded_returns(small_pair, walk.decisions), 0.00075).net
    assert final.strategy("network").metrics.sharpe == sharpe(net, 2191.5)
    assert final.strategy("half_half").metrics.sharpe is not None
    for fold in make_folds(small_pair, run.results.settings, first):
        assert fold.validation[-1] + 1 < fold.test[0]


def test_every_look_is_seen(run: Run, small_pair: Pair, settings: Settings) -> None:
    refuse_second_look(small_pair, settings, again=False)
    first = with_final(run, small_pair).results
    assert first.final is not None
    assert (first.final.look, first.final.looked_before) == (1, [])
    assert "evaluated once" in " ".join(verdict(first))
    with pytest.raises(SettingsError, match=r"were evaluated on .*; --again takes it"):
        refuse_second_look(small_pair, settings, again=False)
    refuse_second_look(small_pair, settings, again=True)
    # Other settings, or a later start inside the same span, are another look at the same bars.
    other = override(run.results.settings, {"final.start": "2030-01-27", "loss.strength": 1.0})
    second = with_final(run._replace(results=run.results.model_copy(update={"settings": other})), small_pair)
    assert second.results.final is not None
    assert second.results.final.look == 2
    assert "so this is no final test" in " ".join(verdict(second.results))


def test_another_pair_or_a_later_span_is_untouched(run: Run, small_pair: Pair, settings: Settings) -> None:
    with_final(run, small_pair)
    assert settings.final is not None
    assert len(earlier_looks(small_pair, settings.final)) == 1
    findings = small_pair.findings
    renamed = Pair(("X", "Y"), small_pair.times, small_pair.frames, small_pair.interval, findings)
    assert earlier_looks(renamed, settings.final) == []
    after = override(settings, {"final.start": "2031-01-01"}).final
    assert after is not None
    assert earlier_looks(small_pair, after) == []


def test_an_interrupted_look_counts(
    run: Run, small_pair: Pair, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("pairfolio.final.walk_forward", stop)
        with pytest.raises(KeyboardInterrupt):
            with_final(run, small_pair)
    with pytest.raises(SettingsError, match="were evaluated on"):
        refuse_second_look(small_pair, settings, again=False)


def test_a_record_that_cannot_be_read_stops_the_look(small_pair: Pair, settings: Settings) -> None:
    assert settings.final is not None
    Path(settings.final.record).write_text("{}\n")
    with pytest.raises(SettingsError, match="mend it, or nobody can say"):
        refuse_second_look(small_pair, settings, again=True)


def test_a_final_test_needs_a_span(run: Run, small_pair: Pair, tiny: Settings) -> None:
    with pytest.raises(SettingsError, match="--final-start"):
        refuse_second_look(small_pair, tiny, again=False)
    late = override(run.results.settings, {"final.start": "2030-01-30T20:00:00Z"})
    with pytest.raises(SettingsError, match="1 bars lie in the span"):
        with_final(run._replace(results=run.results.model_copy(update={"settings": late})), small_pair)


def test_the_best_of_all_trials_is_kept(small_pair: Pair, settings: Settings) -> None:
    tried = candidates(settings)
    assert [(one.network.kind, one.loss.strength) for one in tried] == [
        ("mlp", 0.0),
        ("mlp", 3.0),
        ("tabl", 0.0),
        ("tabl", 3.0),
    ]
    nets = []
    for one in tried:
        walk = walk_forward(small_pair, one)
        nets.append(
            settle(walk.weights.mean(axis=0), traded_returns(small_pair, walk.decisions), 0.00075).net
        )
    ratios = [sharpe(net, 2191.5) or -math.inf for net in nets]
    best = int(np.argmax(ratios))
    chosen = choose(small_pair, settings, lambda done, of: None)
    assert [trial.sharpe for trial in chosen.choice.trials] == ratios
    assert (chosen.choice.chosen, chosen.settings) == (best, tried[best])
    expected = deflated_sharpe(nets[best], np.array(ratios) / math.sqrt(2191.5))
    assert expected is not None
    assert chosen.choice.deflated == pytest.approx(expected, rel=1e-9)
    assert ("network_lambda0" in chosen.walks) == (tried[best].loss.strength > 0)


def test_the_network_without_the_term_is_of_the_kind_chosen(small_pair: Pair, settings: Settings) -> None:
    plain = override(settings, {"selection": {"networks": ("tabl",), "strengths": (3.0, 1.0)}})
    seen: list[tuple[int, int]] = []
    chosen = choose(small_pair, plain, lambda done, of: seen.append((done, of)))
    without = {"network.kind": "tabl", "loss.term": "none", "selection": None}
    bare = walk_forward(small_pair, override(plain, without))
    assert np.array_equal(chosen.walks["network_lambda0"].weights, bare.weights)
    assert not np.array_equal(chosen.walks["network"].weights, bare.weights)
    assert [done for done, _ in seen] == list(range(1, seen[-1][1] + 1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"selection": {"strengths": (1.0, 1.0)}}, "named twice"),
        ({"selection": {"networks": ("mlp", "mlp")}}, "named twice"),
        ({"selection": {}, "loss.term": "none"}, "name one in loss.term"),
        ({"final.start": "soon"}, r"final\.start"),
        ({"seeds": (1, 1)}, "named twice"),
    ],
)
def test_wrong_settings_are_refused(tiny: Settings, changes: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        override(tiny, changes)


def test_a_start_without_an_offset_is_utc(tiny: Settings) -> None:
    for text in ("2030-01-25", "2030-01-25T02:00:00+02:00"):
        assert override(tiny, {"final.start": text}).final_start == pd.Timestamp(START)
