"""The result of a search as one self-contained HTML page."""

from pathlib import Path

from mithridate.report.page import environment, to_yaml, write_page
from mithridate.report.text import clean, interval, percent, seconds
from mithridate.worst_case.worst_results import RowResult, WorstCases
from mithridate.worst_case.worst_tables import MAIN_COLUMNS, attack_line, attack_table, main_rows, trial_table


def write_worst_page(found: WorstCases, path: Path) -> None:
    """Write the page; equal results, equal bytes.

    Raises:
        MithridateError: The file cannot be written.
    """
    write_page(path, worst_page(found))


def worst_page(found: WorstCases) -> str:
    """Return the page as HTML."""
    return (
        environment()
        .get_template("redteam.html.j2")
        .render(
            title=clean(found.name),
            sentence=sentence(found),
            cautions=cautions(found),
            tiles=[_tile(row) for row in found.rows],
            prompts=found.prompts,
            loss=f"{100 * found.utility_loss:g}",
            baseline=f"{percent(found.baseline.value)} {interval(found.baseline)}",
            judge=clean(found.judge),
            trials=found.trials,
            main=(MAIN_COLUMNS, main_rows(found)),
            rows=[(clean(row.name), attack_table(row), trial_table(row)) for row in found.rows],
            left_out=[(clean(row.name), clean(row.reason)) for row in found.left_out],
            provenance=_provenance(found),
            space=to_yaml(found.space),
            recipe=to_yaml(found.recipe),
        )
    )


def sentence(found: WorstCases) -> str:
    """Return what the search found, in one sentence."""
    known = [row for row in found.rows if row.worst is not None and not row.control]
    if not known:
        return "No defended row has a worst case: every setting failed or lost too much of the model's use."
    best = min(known, key=lambda row: _worst(row))
    control = next(row for row in found.rows if row.control)
    beside = "" if control.worst is None else f"; the undefended control has {percent(_worst(control))}"
    assert best.worst is not None
    return (
        f"The lowest worst case is that of {clean(best.name)}: {percent(_worst(best))} "
        f"{interval(best.worst.harmful_score)}, under {attack_line(best.worst.setting)}{beside}."
    )


def cautions(found: WorstCases) -> list[str]:
    """Return what a reader must know before believing the figures."""
    listed = [
        f"A worst case is the highest score of {found.trials} trials; a longer search can only find a higher one.",
    ]
    if found.trials < 40:
        listed.append(f"{found.trials} trials are fewer than the 40 of TamperBench.")
    if len(found.seeds) == 1:
        listed.append("One seed: the intervals cover prompts, not runs.")
    if found.space.get("wider"):
        listed.append("Ranges go beyond TamperBench's, so figures cannot be compared with its own.")
    for row in found.rows:
        if row.worst is not None and 2 * row.worst.broken_harmful > row.worst.harmful_score.value > 0:
            listed.append(f"Most of what is called harmful of {clean(row.name)} is broken text.")
        if row.worst is None:
            listed.append(f"{clean(row.name)}: no worst case, which is no proof of safety.")
    return listed


def _worst(row: RowResult) -> float:
    return 0.0 if row.worst is None else row.worst.harmful_score.value


def _tile(row: RowResult) -> tuple[str, str, str]:
    if row.worst is None:
        return clean(row.name), "–", "no setting within the limits"
    return clean(row.name), percent(_worst(row)), f"95% CI {interval(row.worst.harmful_score)}"


def _provenance(found: WorstCases) -> list[tuple[str, str]]:
    rows = [
        ("command", found.command or ""),
        ("created", found.created),
        ("last call", f"{found.stages_made:,} stages made in {seconds(found.seconds)}"),
        ("seed of the search", str(found.seed)),
        ("seeds of the attack", ", ".join(map(str, found.seeds))),
        *((f"recipe of the worst case: {row.name}", row.recipe or "") for row in found.rows),
        ("recipe hash", str(found.hashes.get("recipe", ""))),
        *((f"input hash: {name}", str(value)) for name, value in found.hashes.get("inputs", {}).items()),
        *((f"version: {name}", value) for name, value in found.versions.items()),
    ]
    return [(clean(what), clean(value)) for what, value in rows if value]
