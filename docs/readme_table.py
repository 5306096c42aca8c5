"""Put the quickstart's table into README.md, as it was produced: ``make quickstart``, then run this file."""

import re
from pathlib import Path

from mithridate.report import as_markdown

README, RESULTS = Path("README.md"), Path("runs/quickstart/results.json")


def main() -> None:
    """Replace what stands between the two marks."""
    table = f"<!-- table -->\n{as_markdown(RESULTS).strip()}\n<!-- /table -->"
    text = README.read_text(encoding="utf-8")
    README.write_text(re.sub(r"<!-- table -->.*?<!-- /table -->", lambda _: table, text, flags=re.S), encoding="utf-8")


if __name__ == "__main__":
    main()
