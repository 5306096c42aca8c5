"""The report: `results.json` as one HTML page, a Markdown table, a table for the terminal."""

from mithridate.report.page import write_report
from mithridate.report.reading import load_results
from mithridate.report.results import Results
from mithridate.report.tables import as_markdown, as_rich_table

__all__ = ["Results", "as_markdown", "as_rich_table", "load_results", "write_report"]
