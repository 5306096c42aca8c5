"""The site: it builds without a warning and holds every page. `make check` runs the slow ones, which build it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import mithridate as mi
from tools import site

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


class Loader(yaml.SafeLoader):
    """YAML as MkDocs reads it."""


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.slow
def test_nothing_is_fetched_from_other_hosts(built):
    for page in built.rglob("*.html"):
        fetched = re.findall(r"<(?:script|link|img|iframe)[^>]*?(?:src|href)=\"?(https?://[^\s\">]+)", page.read_text())
        assert not [address for address in fetched if "canonical" not in address], page


@pytest.mark.slow
def test_every_fence_is_a_block(built):
    for page in built.rglob("*.html"):
        assert not re.search(r"```|<code>(?:yaml|python) notest", page.read_text()), page


def test_every_page_is_in_the_navigation():
    config = yaml.load((ROOT / "mkdocs.yml").read_text(), Loader)
    named = set(re.findall(r"[\w/-]+\.md", str(site._expanded(config["nav"], {"methods": [], "reference": []}))))
    there = {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md") if path.parts[-2] not in ("methods", "tables")}
    assert there == named


@pytest.mark.slow
def test_the_reference_holds_every_public_name(built):
    text = "\n".join(page.read_text() for page in (built / "reference").glob("*.html"))
    for name in (name for name in dir(mi) if not name.startswith("_")):
        value = getattr(mi, name)
        assert f'id="{site.home(name, value)}"' in text, name


def test_a_name_is_found_where_it_is_defined():
    assert site.home("REFUSALS", mi.REFUSALS).endswith(".REFUSALS")
    assert site.home("errors", mi.errors) == "mithridate.errors"
    with pytest.raises(LookupError, match=r"mithridate\.nothing is in no module"):
        site.home("nothing", object())


def test_folders_in_the_navigation_are_expanded():
    nav = ["a.md", {"B": ["b.md", "x/*"]}, {"C": "c.md"}]
    assert site._expanded(nav, {"x": ["x/1.md"]}) == ["a.md", {"B": ["b.md", "x/1.md"]}, {"C": "c.md"}]


def test_messages_under_troubleshooting_are_real():
    source = " ".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
    source = re.sub(r'"\s+f?"', "", source)  # a message over several lines
    quoted = re.findall(r"\*\*`([^`]+)`\*\*", (DOCS / "troubleshooting.md").read_text())
    assert len(quoted) > 10
    assert [message for message in quoted if message not in source] == []
