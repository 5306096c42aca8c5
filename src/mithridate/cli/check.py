"""``mithridate check``."""

import sys
from pathlib import Path

from mithridate.data import load_rows, refuse_control_tokens, trim_report, validate_file
from mithridate.errors import UsageError

LENGTH = 1024
"""Tokens of a row that `--model` counts with, unless `--max-length` says otherwise."""


def command(file: Path, model: str | None, max_length: int | None, template: str | None, ignore: list[str]) -> None:
    """Print what is in an upload; with faults, list them on standard error and exit with 1."""
    for option, given in (("--max-length", max_length), ("--template", template)):
        if model is None and given is not None:
            raise UsageError(f"{option} has no effect without --model; name the model whose tokens are counted")
    report = validate_file(file, ignore=ignore)
    if not report.ok:
        for fault in report.faults:
            print(fault, file=sys.stderr)
        more = report.fault_count - len(report.faults)
        faults = "1 fault" if report.fault_count == 1 else f"{report.fault_count} faults"
        print(faults + (f", {more} not shown" if more else ""), file=sys.stderr)
        sys.exit(1)
    print(
        f"{report.path}: {report.rows} rows, format {report.format}, longest prompt {report.longest_prompt} and "
        f"answer {report.longest_answer} characters, {report.duplicated_prompts} duplicated prompts"
    )
    if model is not None:
        _print_cuts(file, model, max_length or LENGTH, template, ignore)


def _print_cuts(file: Path, model: str, max_length: int, template: str | None, ignore: list[str]) -> None:
    from mithridate.cli.models import open_tokenizer

    rows, tokenizer = load_rows(file, ignore=ignore), open_tokenizer(model, template)
    refuse_control_tokens(rows, tokenizer)
    trimmed = trim_report(rows, tokenizer, max_length)
    print(f"within {max_length} tokens: {trimmed.truncated} answers are cut, {trimmed.dropped} rows are lost")
    for origin in trimmed.dropped_origins:
        print(f"lost: {origin}")
