"""The final test: bars set aside in the settings, on which nothing was chosen, evaluated once.

The network, its λ, the costs and every window come from the earlier span. The test walks forward like any
other: each model is trained on the bars before those it trades, some of them in the final span once they have
passed. Every look is written to a record before the bars are traded, so that an interrupted look counts too.
The record is a reminder for honest people, not a lock: whoever deletes it can look again unseen.
"""

import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
from pydantic import BaseModel, ValidationError

from pairfolio.backtest import Run, trade
from pairfolio.config import FinalSettings, Settings, override
from pairfolio.data.findings import stamp
from pairfolio.data.pair import Pair
from pairfolio.errors import SettingsError
from pairfolio.figures import Scale, strategy_results, traded_span
from pairfolio.learning.walkforward import walk_forward
from pairfolio.results import FinalResult
from pairfolio.strategies.roster import labels


class Look(BaseModel):
    """One line of the record: who looked at which bars, and when."""

    looked: str
    pair: tuple[str, str]
    files: list[str]
    first: str
    last: str
    settings: str


def earlier_looks(pair: Pair, final: FinalSettings) -> list[Look]:
    """Looks at this pair, or at one of its files, whose span reaches into the one set aside.

    Raises:
        SettingsError: If the record cannot be read.
    """
    path, start = Path(final.record), stamp(pd.Timestamp(final.start))
    if not path.exists():
        return []
    try:
        looks = [Look.model_validate_json(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError, ValidationError) as error:
        raise SettingsError(
            f"{path}: the record of final tests cannot be read ({type(error).__name__}); mend it, or nobody "
            "can say whether the span is untouched"
        ) from error
    files = set(_files(pair))
    return [
        look for look in looks if (look.pair == pair.names or files & set(look.files)) and look.last >= start
    ]


def refuse_second_look(pair: Pair, settings: Settings, again: bool) -> None:
    """Stop before any training if no span is set aside, or if it was looked at before.

    Raises:
        SettingsError: In either case; a second look is allowed by `again`.
    """
    if settings.final is None:
        raise SettingsError("--final needs a span set aside; name its start with --final-start 2023-01-01")
    looks = earlier_looks(pair, settings.final)
    if looks and not again:
        raise SettingsError(
            f"{settings.final.record}: the bars from {_start(settings)} on were evaluated on "
            f"{looks[0].looked}, so another look is no final test; --again takes it, and the report says so"
        )


def with_final(run: Run, pair: Pair, progress: Callable[[int, int], None] = lambda done, of: None) -> Run:
    """Evaluate the span set aside with what the earlier span led to.

    Args:
        run: Of the earlier span.
        pair: All candles.
        progress: Called with the networks trained so far and in all.

    Raises:
        SettingsError: If fewer than two bars lie in the span, or too few before it.
        OSError: If the look cannot be recorded.
    """
    settings = run.results.settings
    assert settings.final is not None
    first = int(np.sum(pair.times < pd.Timestamp(settings.final.start)))
    if len(pair.times) - first < 3:
        raise SettingsError(
            f"{len(pair.times) - first} bars lie in the span from {_start(settings)} on; set an earlier start"
        )
    earlier = earlier_looks(pair, settings.final)
    record_look(pair, settings)
    walks = {"network": walk_forward(pair, settings, progress, first)}
    if "network_lambda0" in run.ledgers:
        bare = override(settings, {"loss.term": "none", "selection": None})
        walks["network_lambda0"] = walk_forward(pair, bare, progress, first)
    scale, decisions = Scale(pair, settings), walks["network"].decisions
    ledgers = trade(pair, walks, settings)
    result = FinalResult(
        tested=traded_span(pair, decisions, scale),
        look=len(earlier) + 1,
        looked_before=[look.looked for look in earlier],
        strategies=strategy_results(pair, decisions, ledgers, labels(pair, settings), scale),
    )
    return run._replace(results=run.results.model_copy(update={"final": result}))


def _start(settings: Settings) -> str:
    start = settings.final_start
    return "" if start is None else stamp(start)


def _files(pair: Pair) -> list[str]:
    return [file.sha256 for file in pair.findings.files if file.sha256]


def record_look(pair: Pair, settings: Settings) -> int:
    """Add one line to the record and give its number among the looks at this span.

    Raises:
        SettingsError: If the record cannot be read.
        OSError: If it cannot be written.
    """
    assert settings.final is not None
    number = len(earlier_looks(pair, settings.final)) + 1
    look = Look(
        looked=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        pair=pair.names,
        files=_files(pair),
        first=_start(settings),
        last=stamp(pair.times[-1]),
        settings=json.dumps(settings.model_dump(mode="json"), sort_keys=True),
    )
    with Path(settings.final.record).open("a", encoding="utf-8") as record:
        record.write(look.model_dump_json() + "\n")
        record.flush()
        os.fsync(record.fileno())
    return number
