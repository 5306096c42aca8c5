"""A decision as one self-contained HTML page for the provider."""

from pathlib import Path

from mithridate.provider.audit_figures import AuditFigures, Share
from mithridate.provider.decision import Decision, TriedRung
from mithridate.provider.policy_jobs import TEMPLATE
from mithridate.provider.prompt_templates import PromptTemplate
from mithridate.report.page import environment, write_page
from mithridate.report.table import Column, TableCell
from mithridate.report.text import NOTHING, clean, percent, shorten

REPORT = "report.html"
MOST_SHOWN = 200
"""Characters of a customer's template that a cell shows."""

OUTCOMES = {
    "released": "released",
    "refused_at_upload": "refused at upload",
    "refused_at_release": "refused at release",
}
SENTENCES = {
    "released": "The model that lies beside this page is the one that was judged; every check of the policy passed.",
    "refused_at_upload": "Nothing was trained on this upload.",
    "refused_at_release": "No model leaves: on every rung of the ladder at least one check failed.",
}

_Table = tuple[str, str, tuple[Column, ...], list[list[TableCell]]]


def write_decision_page(decision: Decision, path: Path) -> None:
    """Write the page; equal decisions, equal bytes.

    Raises:
        MithridateError: The file cannot be written.
    """
    write_page(path, decision_page(decision))


def decision_page(decision: Decision) -> str:
    """Return the page as HTML."""
    return (
        environment()
        .get_template("decision.html.j2")
        .render(
            outcome=OUTCOMES[decision.outcome],
            upload=clean(decision.upload.name),
            sentence=SENTENCES[decision.outcome],
            tiles=_tiles(decision),
            reasons=[clean(reason) for reason in decision.reasons] or ["Every check passed."],
            tables=[table for table in _tables(decision) if table[3]],
            policy=f"{clean(decision.policy.name)} ({decision.policy.sha256[:12]})",
            request=decision.request[:20],
            created=decision.created,
            versions=", ".join(f"{name} {number}" for name, number in decision.versions.items()),
        )
    )


def _tiles(decision: Decision) -> list[tuple[str, str, str]]:
    upload, called = decision.upload, "Preference pairs" if decision.on_pairs else "Rows"
    found = [(called, f"{upload.rows:,}", f"{upload.held_out:,} held out of training")]
    last = next((rung.figures for rung in reversed(decision.rungs) if rung.figures is not None), None)
    if last is not None:
        condition, worst = max(last.harmful_score.items(), key=lambda found: found[1].high)
        note = f"at most {percent(worst.high)}; asked: {clean(condition)}"
        found.append(("Harmful score, worst condition", percent(worst.value), note))
        found.append(("Over-refusal", percent(last.over_refusal.value), f"at most {percent(last.over_refusal.high)}"))
        found.append(("Ordinary prompts helped", percent(last.helpfulness.value), f"of {last.helpfulness.n:,}"))
    return found


def _tables(decision: Decision) -> list[_Table]:
    measured = [("aligned model", decision.aligned), *((rung.name, rung.figures) for rung in decision.rungs)]
    return [
        *_gate(decision),
        _templates(decision.templates),
        (
            "What was measured",
            "The aligned model is the one before tuning. Brackets hold 95 % intervals.",
            _figure_columns(measured),
            [_figure_row(name, figures, measured) for name, figures in measured if figures is not None],
        ),
        *(_checks(rung) for rung in decision.rungs),
    ]


def _gate(decision: Decision) -> list[_Table]:
    verdict = decision.gate
    if verdict is None:
        return []
    signals = [
        [
            TableCell(result.signal),
            TableCell(result.of),
            TableCell("yes" if result.fired else "no"),
            TableCell(NOTHING if result.flagged is None else f"{result.flagged:,}"),
            TableCell(clean(result.reason)),
        ]
        for result in verdict.signals
    ]
    rows = [
        [
            TableCell(NOTHING if finding.row is None else f"{finding.row:,}"),
            TableCell(clean(finding.origin)),
            TableCell(clean(finding.reason)),
        ]
        for finding in verdict.findings
    ]
    texts = ("Signal", "Of")
    return [
        (
            f"The gate on uploads: {verdict.decision.value}",
            f"{verdict.flagged:,} of {verdict.rows:,} rows were flagged by one signal or more.",
            (
                *(Column(name, numeric=False) for name in (*texts, "Fired")),
                Column("Rows"),
                Column("Why", numeric=False),
            ),
            signals,
        ),
        (
            "Flagged rows",
            f"The first {len(verdict.findings):,}; all of them, with what they say, are in findings.jsonl.",
            (Column("Row"), Column("From", numeric=False), Column("Why", numeric=False)),
            rows,
        ),
    ]


def _templates(found: list[PromptTemplate]) -> _Table:
    names = ("Asked", "System message", "Before the prompt", "Behind it")
    rows = [
        [
            TableCell(f"{TEMPLATE} {place}"),
            *(TableCell(shorten(clean(text), MOST_SHOWN)) for text in (one.system or "", one.before, one.behind)),
            TableCell(f"{one.rows:,}"),
        ]
        for place, one in enumerate(found, start=1)
    ]
    columns = (*(Column(name, numeric=False) for name in names), Column("Rows"))
    note = "Rows of the upload share these; the audit's harmful prompts were asked in them as well."
    return "The upload's own prompt templates", note, columns, rows


def _checks(rung: TriedRung) -> _Table:
    columns = (
        Column("Check", numeric=False),
        Column("Asked", numeric=False),
        Column("Measured"),
        Column("Bound"),
        Column("Limit"),
        Column("Passed", numeric=False),
    )
    rows = [
        [
            TableCell(check.figure),
            TableCell(check.condition),
            TableCell(percent(check.value)),
            TableCell(percent(check.bound)),
            TableCell(percent(check.limit), check.side),
            TableCell("yes" if check.passed else "no"),
        ]
        for check in rung.checks
    ]
    note = "" if rung.cannot_act is None else clean(rung.cannot_act)
    return f"Rung: {clean(rung.name)}", note, columns, rows


def _figure_columns(measured: list[tuple[str, AuditFigures | None]]) -> tuple[Column, ...]:
    fixed = ("Over-refusal", "Helped", "Task accuracy")
    return (
        Column("Model", numeric=False),
        *(Column(f"Harmful, {clean(name)}") for name in _conditions(measured)),
        *(Column(f"Harmful, group {clean(name)}") for name in _groups(measured)),
        *(Column(name) for name in fixed),
    )


def _figure_row(name: str, found: AuditFigures, measured: list[tuple[str, AuditFigures | None]]) -> list[TableCell]:
    shares = [
        *(found.harmful_score.get(one) for one in _conditions(measured)),
        *(found.harmful_score_by_group.get(one) for one in _groups(measured)),
        found.over_refusal,
        found.helpfulness,
        found.finetune_accuracy,
    ]
    return [TableCell(clean(name)), *map(_cell, shares)]


def _cell(share: Share | None) -> TableCell:
    if share is None:
        return TableCell(NOTHING)
    return TableCell(percent(share.value), f"[{100 * share.low:.1f}, {100 * share.high:.1f}]")


def _conditions(measured: list[tuple[str, AuditFigures | None]]) -> list[str]:
    return list(dict.fromkeys(name for _, found in measured if found is not None for name in found.harmful_score))


def _groups(measured: list[tuple[str, AuditFigures | None]]) -> list[str]:
    return list(
        dict.fromkeys(name for _, found in measured if found is not None for name in found.harmful_score_by_group)
    )
