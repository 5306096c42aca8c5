"""The report: `results.json` as one HTML page, a Markdown table, a table for the terminal."""

from mithridate.report.page import write_report
from mithridate.report.result_tables import as_markdown, as_rich_table
from mithridate.report.results import Results
from mithridate.report.results_file import load_results

__all__ = ["Results", "as_markdown", "as_rich_table", "load_results", "write_report"]
