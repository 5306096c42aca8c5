"""``mithridate check``."""

import sys
from pathlib import Path

from mithridate.data import validate_file


def command(file: Path) -> None:
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
