"""The streams of rows that a trainer is given, against those that its defense needs."""

from collections.abc import Mapping, Sequence

from datasets import Dataset

from mithridate.data import require_rows
from mithridate.errors import DefenseError, UsageError
from mithridate.models.tokenization import Rows
from mithridate.settings import Info, Settings

TRAINED = {"alignment": "safe", "finetuning": "user"}
"""The stream that each stage trains on."""


def stream_trained_at(info: Info, stage: str | None) -> str:
    """Return the stream that is trained on at a stage.

    Args:
        info: The defense's registration.
        stage: Where it acts; by default the last stage that it can act at.

    Raises:
        UsageError: If it does not act there.
    """
    stage = stage or info.stages[-1]
    if stage not in info.stages or stage not in TRAINED:
        raise UsageError(
            f"{info.name} acts at {' and '.join(info.stages)}, not while training at the stage '{stage}'; "
            "call repair() on the finished model, or name another defense or stage"
        )
    return TRAINED[stage]


def given_streams(
    defense: Settings, datasets: Mapping[str, Rows | None], refusals: Sequence[str]
) -> dict[str, Dataset]:
    """Return the checked rows of the streams that are given.

    Args:
        defense: The defense.
        datasets: Rows by the name of their stream; None where they are not given.
        refusals: Refusal sentences.

    Raises:
        DefenseError: If a stream that the defense needs is not given.
        DataError: If rows cannot be used.
    """
    for name in defense.streams:
        if name == "refusals" and not refusals:
            missing = "refusals=mithridate.REFUSALS"
        elif name in datasets and datasets[name] is None:
            missing = f"{name}_dataset="
        else:
            continue
        raise DefenseError(f"{defense.info.name} needs the stream '{name}', which was not given; pass {missing}")
    return {name: require_rows(rows, f"{name}_dataset") for name, rows in datasets.items() if rows is not None}
