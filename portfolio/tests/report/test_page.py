import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from pairfolio.backtest import run_backtest
from pairfolio.config import Settings
from pairfolio.data.pair import Pair
from pairfolio.report.page import number, percent, render, share

EVIL = "<script>alert(1)</script>"


@pytest.fixture
def page(small_pair: Pair, tiny: Settings) -> str:
    files = [file.model_copy(update={"name": EVIL}) for file in small_pair.findings.files]
    findings = small_pair.findings.model_copy(update={"files": files})
    return render(run_backtest(replace(small_pair, names=(EVIL, "B & C"), findings=findings), tiny))


class Tags(HTMLParser):
    """Counts tags and collects references."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.references: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.references += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]


def test_the_page_is_one_file_with_charts_and_tables(page: str) -> None:
    tags = Tags()
    tags.feed(page)
    assert tags.tags.count("svg") == 3
    assert tags.tags.count("table") == 5
    assert all(reference.startswith("#") for reference in tags.references)
    assert "url(http" not in page


def test_names_are_escaped(page: str) -> None:
    assert EVIL not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "B &amp; C" in page


def test_every_figure_is_written_out(page: str) -> None:
    text = re.sub(r"<svg.*?</svg>", "", page, flags=re.DOTALL)
    assert not re.search(r"\bNone\b|\bnan\b|\binf\b", text)
    for word in ("half/half each bar", "equal risk, rolling", "Market situations", "2191.5 bars a year"):
        assert word in page


def test_numbers_have_true_minus_signs() -> None:
    assert share(0.123) == "12.3 %"
    assert percent(-0.123) == "−12.3 %"
    assert percent(None) == share(None) == number(None) == "–"
    assert number(-1.234) == "−1.23"
