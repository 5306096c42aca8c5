"""A table as cells, for HTML, Markdown, CSV and the terminal."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from io import StringIO
from typing import NamedTuple

from rich.table import Table as RichTable
from rich.text import Text


@dataclass(frozen=True)
class TableCell:
    """A cell: the figure, and in smaller type what qualifies it, in lines."""

    main: str
    note: str = ""

    def line(self) -> str:
        """Return both on one line."""
        return f"{self.main} {self.note}".strip().replace("\n", ", ")


@dataclass(frozen=True)
class Column:
    """A column's heading, and whether it holds figures."""

    title: str
    numeric: bool = True


class ResultTable(NamedTuple):
    """A table: its title, columns and rows."""

    title: str
    columns: list[Column]
    rows: list[list[TableCell]]


def markdown_table(columns: Sequence[Column], rows: Sequence[Sequence[TableCell]]) -> str:
    """Return a table in Markdown."""
    lines = ["| " + " | ".join(column.title for column in columns) + " |"]
    lines.append("|" + "|".join("---:" if column.numeric else "---" for column in columns) + "|")
    lines += ["| " + " | ".join(_markdown(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _markdown(cell: TableCell) -> str:
    # HTML first, as Markdown passes it through; the backslash before those that add backslashes.
    safe = escape(cell.line(), quote=False).replace("\\", "\\\\").replace("|", "\\|")
    return safe.replace("`", "\\`").replace("_", "\\_").replace("*", "\\*")


def rich_table(title: str, columns: Sequence[Column], rows: Sequence[Sequence[TableCell]]) -> RichTable:
    """Return a table for the terminal; no cell is read as markup."""
    table = RichTable(title=Text(title), header_style="bold", title_justify="left")
    for column in columns:
        table.add_column(
            column.title, justify="right" if column.numeric else "left", no_wrap=column.numeric, overflow="fold"
        )
    for row in rows:
        table.add_row(*map(_rich, row))
    return table


def _rich(cell: TableCell) -> Text:
    text = Text(cell.main)
    if cell.note:
        text.append(f"\n{cell.note}", style="dim")
    return text


def as_csv(lines: Sequence[dict[str, object]]) -> str:
    """Return lines with the same keys as CSV."""
    out = StringIO()
    # csv ends lines with \r\n by default; the Markdown and LaTeX files beside it have \n.
    writer = csv.DictWriter(out, fieldnames=list(lines[0]) if lines else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return out.getvalue()
