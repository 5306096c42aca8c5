"""Tables in LaTeX, for booktabs."""

from collections.abc import Iterable, Sequence

from mithridate.report.table import ResultTable, TableCell

ESCAPES = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    # In TeX's default OT1 encoding these three print as ¡, ¿ and an em dash.
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "\n": " ",
    "−": "$-$",
    "–": "--",
    "→": r"$\rightarrow$",
    "↓": r"$\downarrow$",
    "↑": r"$\uparrow$",
}


def escaped(text: str) -> str:
    """Escape a text for LaTeX; each character is looked at once, so that no escape is escaped again."""
    return "".join(ESCAPES.get(character, character) for character in text)


def tex_table(tables: Iterable[ResultTable], caption: str) -> str:
    """Return the tables, one below the other, as one float."""
    parts = [part for table in tables for part in _tabular(table)]
    lines = [
        "% Needs \\usepackage{booktabs}.",
        "\\begin{table}",
        "\\centering\\small",
        *parts,
        *([f"\\caption{{{escaped(caption)}}}"] if caption else []),
        "\\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _tabular(table: ResultTable) -> list[str]:
    layout = "".join("r" if column.numeric else "l" for column in table.columns)
    heading = f"\\multicolumn{{{len(layout)}}}{{l}}{{\\textbf{{{escaped(table.title)}}}}}"
    return [
        f"\\begin{{tabular}}{{{layout}}}",
        "\\toprule",
        heading + r" \\",
        _line([escaped(column.title) for column in table.columns]),
        "\\midrule",
        *(_line([_cell(cell) for cell in row]) for row in table.rows),
        "\\bottomrule",
        "\\end{tabular}\\par\\medskip",
    ]


def _line(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _cell(cell: TableCell) -> str:
    # Braces keep a row that starts with a bracket from being read as an option of the line break before it.
    qualified = f" {{\\scriptsize {escaped(cell.note)}}}" if cell.note else ""
    return escaped(cell.main) + qualified
