"""The command ``mithridate check``."""

import json
import sys
from typing import Any

from mithridate.data import RowFields, UploadReport, check_upload
from mithridate.data.preferences import PREFERENCES
from mithridate.data.row_faults import shown
from mithridate.data.row_fields import row_fields
from mithridate.errors import UsageError

LENGTH = 1024
"""Longest row in tokens for `--model`, unless `--max-length` is given; the default of TRL's ``SFTConfig``."""


def command(
    source: str,
    model: str | None,
    max_length: int | None,
    template: str | None,
    field: list[str],
    ignore: list[str],
    subset: str | None,
    split: str | None,
    preferences: bool,
    as_json: bool,
) -> None:
    """Print what is in an upload; with faults, list them on standard error and exit with 1."""
    # Refused rather than ignored: whoever gives a length would believe that tokens were counted.
    for option, given in (("--max-length", max_length), ("--template", template)):
        if model is None and given is not None:
            raise UsageError(f"{option} has no effect without --model; name the model whose tokens are counted")
    fields = fields_of(field)
    tokenizer = None
    # Imports torch and transformers, which only the counting of tokens needs.
    if model is not None:
        from mithridate.cli.models import open_tokenizer

        tokenizer = open_tokenizer(model, template)
    with _Progress() as progress:
        report = check_upload(
            source, fields, ignore, subset=subset, split=split, tokenizer=tokenizer,
            max_length=max_length or LENGTH, preferences=preferences, progress=progress.show,
        )  # fmt: skip
    if as_json:
        print(json.dumps(report.as_dict(), indent=1))
    else:
        _print(report)
    if not report.ok:
        sys.exit(1)


def fields_of(options: list[str]) -> RowFields | None:
    """Return the fields that options such as `--field prompt=question` or `--field roles.bot=assistant` name.

    Raises:
        UsageError: If an option is not of the form NAME=COLUMN, or the fields cannot be used.
    """
    found: dict[str, Any] = {}
    for option in options:
        name, sign, value = option.partition("=")
        if not sign or not name or not value:
            raise UsageError(f"--field {option!r} must be NAME=COLUMN, such as --field prompt=question")
        name, _, role = name.partition(".")
        if name == "roles" and role:
            found.setdefault("roles", {})[role] = value
        elif name in found or role:
            raise UsageError(f"--field {name} is given twice" if name in found else f"--field {name} takes no .{role}")
        else:
            found[name] = value.split(",") if name == "labels" else value
    return row_fields(found) if found else None


def _print(report: UploadReport) -> None:
    if report.fault_count:
        # To standard error, so that a pipe behind the command sees nothing of a bad upload.
        for fault in report.faults:
            print(fault, file=sys.stderr)
        more = report.fault_count - len(report.faults)
        faults = "1 fault" if report.fault_count == 1 else f"{report.fault_count} faults"
        print(faults + (f", {more} not shown" if more else ""), file=sys.stderr)
        # A file of no known format has this fault in its first row, and one hint is enough for all rows.
        if report.faults[0].found.startswith("a row of no known format"):
            print(
                "name the columns: --field prompt=COLUMN --field response=COLUMN, or --field messages=COLUMN",
                file=sys.stderr,
            )
        return
    print(
        f"{shown(report.path)}: {report.rows} rows, format {report.format}, longest prompt {report.longest_prompt} and "
        f"answer {report.longest_completion} characters, {report.duplicated_prompts} duplicated prompts"
    )
    if report.rows != report.conversations:
        what = "pairs" if report.format == PREFERENCES.name else "conversations"
        each = "of the two answers" if what == "pairs" else "answer that is trained"
        print(f"{report.conversations} {what} were split: one row for each {each}")
    tokens = report.tokens
    if tokens is None:
        return
    print(f"{tokens.total} tokens, {tokens.longest} in the longest row")
    print(f"within {tokens.max_length} tokens: {tokens.truncated} answers are cut, {tokens.dropped} rows are lost")
    for origin in tokens.dropped_origins:
        print(f"lost: {shown(origin)}")
    if tokens.unusable is not None:
        print(f"mithridate: {tokens.unusable.splitlines()[0].rstrip(':')}", file=sys.stderr)


class _Progress:
    """Shows on a terminal how many rows are done, and how fast; nothing elsewhere."""

    def __enter__(self) -> "_Progress":
        self._bar = None
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

            columns = (SpinnerColumn(), TextColumn("{task.completed:,.0f} rows checked"), TimeElapsedColumn())
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
            # No total: a file's rows are only counted by reading them.
            self._task = self._bar.add_task("", total=None)
            self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, rows: int) -> None:
        """Show how many rows are done."""
        if self._bar is not None:
            self._bar.update(self._task, completed=rows)
