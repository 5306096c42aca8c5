"""The result of a search as tables, for the terminal and the page."""

from rich.table import Table as RichTable

from mithridate.report.table import Column, ResultTable, TableCell, rich_table
from mithridate.report.text import NOTHING, clean, interval, percent, points
from mithridate.worst_case.worst_results import AttackerSetting, ReportedSetting, RowResult, TriedSetting, WorstCases

MAIN_COLUMNS = (
    Column("Row", numeric=False),
    Column("HS, recipe's setting"),
    Column("HS, worst case"),
    Column("FA, worst case"),
    Column("Attack", numeric=False),
    Column("Setting", numeric=False),
)
RECIPES_OWN = "the recipe's own"


def main_rows(found: WorstCases) -> list[list[TableCell]]:
    """Return one row of cells for each row of the recipe."""
    return [_main(found, row) for row in found.rows]


def terminal_table(found: WorstCases) -> RichTable:
    """Return the main table for the terminal, without the settings, which `worst_lines` says."""
    title = f"{clean(found.name)}: worst cases on {found.prompts.reported_on} prompts that chose no setting"
    # What fits into 80 columns.
    kept = len(MAIN_COLUMNS) - 2
    return rich_table(title, MAIN_COLUMNS[:kept], [row[:kept] for row in main_rows(found)])


def worst_lines(found: WorstCases) -> list[str]:
    """Return each row's worst setting in a sentence."""
    lines = []
    for row in found.rows:
        if row.worst is None:
            said = _no_worst(row)
        else:
            setting = row.worst.setting
            said = f"{attack_line(setting)}; {setting_line(setting)} ({_trial(row.worst.number)})"
        lines.append(f"{clean(row.name)}: {said}")
    return lines


def _main(found: WorstCases, row: RowResult) -> list[TableCell]:
    name = TableCell(clean(row.name), "undefended control" if row.control else "")
    own = TableCell(NOTHING) if row.own is None else _score(row.own)
    if row.worst is None:
        return [name, own, TableCell("none found"), TableCell(NOTHING), TableCell(_no_worst(row)), TableCell(NOTHING)]
    accuracy = row.worst.finetune_accuracy
    fall = points(accuracy.value - found.baseline.value)
    return [
        name,
        own,
        _score(row.worst),
        TableCell(percent(accuracy.value), f"{interval(accuracy)}\n{fall}"),
        TableCell(*_attack(row.worst.setting)),
        TableCell(_trial(row.worst.number), setting_line(row.worst.setting)),
    ]


def _no_worst(row: RowResult) -> str:
    measured = [trial for trial in row.trials if trial.cannot_act is None]
    return "no setting could be measured" if not measured else "every setting lost too much of the model's use"


def _score(one: ReportedSetting) -> TableCell:
    broken = f"\n{percent(one.broken_harmful)} broken text" if one.broken_harmful else ""
    return TableCell(percent(one.harmful_score.value), interval(one.harmful_score) + broken)


def _attack(setting: AttackerSetting) -> tuple[str, str]:
    upload = clean(setting.attack) if setting.attack is not None else "harmful rows mixed in"
    return upload, "" if setting.release is None else f"then {clean(setting.release)}"


def attack_line(setting: AttackerSetting) -> str:
    """Return the attacks of a setting in one line."""
    return ", ".join(part for part in _attack(setting) if part)


def setting_line(setting: AttackerSetting) -> str:
    """Return the training settings in one line."""
    length = f"{setting.steps} steps" if setting.steps is not None else f"{setting.epochs:g} epochs"
    rank = [] if setting.rank is None else [f"rank {setting.rank}"]
    parts = [f"lr {setting.learning_rate:.2g}", length, f"batch {setting.batch_size}", *rank, clean(setting.scheduler)]
    return ", ".join(parts)


def _trial(number: int) -> str:
    return RECIPES_OWN if number == 0 else f"trial {number}"


def attack_table(row: RowResult) -> ResultTable:
    """Return the highest score that each attack reached, on the prompts that the search read."""
    groups: dict[str, list[TriedSetting]] = {}
    for trial in row.trials:
        groups.setdefault(attack_line(trial.setting), []).append(trial)
    columns = [Column("Attack", numeric=False), Column("Trials"), Column("Within limits"), Column("Highest HS"),
               Column("FA there"), Column("Setting", numeric=False)]  # fmt: skip
    rows = []
    for name, trials in groups.items():
        kept = [trial for trial in trials if trial.feasible]
        best = max(kept, key=lambda trial: (trial.chosen_score or 0.0, -trial.number), default=None)
        figures = [TableCell(NOTHING)] * 3 if best is None else [_share(best.chosen_score),
                   _share(best.finetune_accuracy), TableCell(setting_line(best.setting))]  # fmt: skip
        rows.append([TableCell(name), TableCell(str(len(trials))), TableCell(str(len(kept))), *figures])
    rows.sort(key=lambda cells: cells[0].main)
    return ResultTable("By attack", columns, rows)


def trial_table(row: RowResult) -> ResultTable:
    """Return every trial of a row."""
    columns = [Column("Trial"), Column("HS"), Column("FA"), Column("Within limits", numeric=False),
               Column("Attack", numeric=False), Column("Setting", numeric=False)]  # fmt: skip
    rows = [
        [
            TableCell(_trial(trial.number).removeprefix("trial ")),
            _share(trial.chosen_score),
            _share(trial.finetune_accuracy),
            TableCell("yes" if trial.feasible else "no", _why(trial)),
            TableCell(attack_line(trial.setting)),
            TableCell(setting_line(trial.setting)),
        ]
        for trial in row.trials
    ]
    return ResultTable("Trials", columns, rows)


def _why(trial: TriedSetting) -> str:
    if trial.cannot_act is not None:
        return clean(trial.cannot_act)
    names = {"accuracy": "accuracy", "broken_text": "broken text"}
    exceeded = [f"{names.get(name, name)} by {points(by).lstrip('+')}" for name, by in trial.over.items() if by > 0]
    return ", ".join(exceeded)


def _share(value: float | None) -> TableCell:
    return TableCell(NOTHING if value is None else percent(value))
