"""``mithridate check``."""

import sys
from pathlib import Path

from mithridate.data import load_rows, refuse_control_tokens, trim_report, validate_file


def command(file: Path, model: str | None, max_length: int, template: str | None) -> None:
    """Print what is in an upload; with faults, list them on standard error and exit with 1."""
    report = validate_file(file)
    if not report.ok:
        for fault in report.faults:
            print(fault, file=sys.stderr)
        more = report.fault_count - len(report.faults)
        print(f"{report.fault_count} faults" + (f", {more} not shown" if more else ""), file=sys.stderr)
        sys.exit(1)
    print(
        f"{report.path}: {report.rows} rows, format {report.format}, longest prompt {report.longest_prompt} and "
        f"answer {report.longest_answer} characters, {report.duplicated_prompts} duplicated prompts"
    )
    if model is not None:
        _print_cuts(file, model, max_length, template)


def _print_cuts(file: Path, model: str, max_length: int, template: str | None) -> None:
    from mithridate.cli.models import where_named
    from mithridate.pipeline.models import load_tokenizer

    rows, tokenizer = load_rows(file), load_tokenizer(where_named(model, tokenizer=True).base, template, "command")
    refuse_control_tokens(rows, tokenizer)
    trimmed = trim_report(rows, tokenizer, max_length)
    print(f"within {max_length} tokens: {trimmed.truncated} answers are cut, {trimmed.dropped} rows are lost")
    for origin in trimmed.dropped_origins:
        print(f"lost: {origin}")
