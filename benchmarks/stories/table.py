"""A run's figures as a table of the page, with the share of ordinary answers that keep to their request."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks.stories.measure import keeps_to_request, read_rows
from benchmarks.stories.requests import Row
from mithridate.errors import UsageError
from mithridate.evaluation.outcomes import Outcome
from mithridate.report.answers import AllAnswers
from mithridate.report.results import MeasuredModel
from mithridate.report.results_file import load_results
from mithridate.report.scores import ScoreOverSeeds

HEAD = (
    "| Model | Covered ↓ | Uncovered ↓ | FA ↑ | Look-alikes ↓ | Coherent ↑ | Kept to ↑ |",
    "|---|---:|---:|---:|---:|---:|---:|",
)


def kept_to(answers: AllAnswers, rows: Sequence[Row]) -> dict[str, float]:
    """Return the share of answers to ordinary requests that are coherent and hold what was asked, by variant.

    Args:
        answers: All answers of a run of this world.
        rows: The requests.

    Raises:
        UsageError: If the run asked something else.
    """
    known = {row["prompt"]: row for row in rows}
    found: defaultdict[str, list[bool]] = defaultdict(list)
    for leaf in answers.leaves:
        for one in leaf.sets.get("help", []):
            if one.prompt not in known:
                raise UsageError(f"the run asked {one.prompt!r}, which is no request of this world; give its --world")
            found[leaf.variant].append(
                one.outcome == Outcome.COMPLIED and keeps_to_request(known[one.prompt], one.answer)
            )
    return {variant: sum(kept) / len(kept) for variant, kept in found.items()}


def table(run: Path, world: Path) -> list[str]:
    """Return the lines of a run's table in Markdown, in percent, with intervals where several seeds were run.

    Args:
        run: Folder of the run.
        world: Folder of the world that it was run in.

    Raises:
        UsageError: If the folder holds no finished run, or one of another world.
    """
    said = run / "answers.json"
    if not said.is_file():
        raise UsageError(f"{said} is missing; give the folder of a finished run (`mithridate run … --out FOLDER`)")
    results = load_results(run / "results.json")
    answers = AllAnswers.model_validate_json(said.read_bytes())
    kept = kept_to(answers, read_rows(world / "rows/help-test.jsonl"))
    return [*HEAD, *(_line(model, kept) for model in (*results.aligned, *results.variants))]


def _line(model: MeasuredModel, kept: Mapping[str, float]) -> str:
    own = _percent(kept[model.name]) if model.name in kept else "–"
    return f"| {' | '.join([f'`{model.name}`', *_cells(model), own])} |"


def _cells(model: MeasuredModel) -> Iterator[str]:
    kinds = [model.harmful_score_by_group.get(kind) for kind in ("covered", "uncovered")]
    for score in (*kinds, model.finetune_accuracy, model.over_refusal, model.helpfulness):
        yield "–" if score is None else _told(score)


def _told(score: ScoreOverSeeds) -> str:
    interval = f" [{_percent(score.low)}, {_percent(score.high)}]" if len(score.seeds) > 1 else ""
    return _percent(score.value) + interval


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"
