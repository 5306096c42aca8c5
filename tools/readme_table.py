"""Put the quickstart's table into README.md, as it was produced.

Run ``make quickstart``, then ``python -m tools.readme_table``. Below the table stands the report's own verdict, and the
accuracy that a single label would have.
"""

import re
from pathlib import Path

import typer

from mithridate.report import Results, as_markdown, load_results
from mithridate.report.conclusion import conclusion
from mithridate.report.text import percent

README, RESULTS = Path("README.md"), Path("runs/quickstart/results.json")


def main() -> None:
    """Replace what stands between the two marks."""
    results = load_results(RESULTS)
    table = f"<!-- table -->\n{as_markdown(results).strip()}\n\n{below(results)}\n<!-- /table -->"
    text = README.read_text(encoding="utf-8")
    README.write_text(re.sub(r"<!-- table -->.*?<!-- /table -->", lambda _: table, text, flags=re.S), encoding="utf-8")


def below(results: Results) -> str:
    """What the table does not say by itself."""
    most = results.majority
    base = f" Always giving the most common label would have an FA of {percent(most)}." if most is not None else ""
    return f"{conclusion(results).sentence}{base} Helpful: ordinary prompts that are still answered rightly."


if __name__ == "__main__":
    typer.run(main)  # an option is answered or refused before anything is written
