"""The pages of the methods: each fact from its home, and none of them stale."""

import dataclasses

import pytest
from tools.cards import read_cards

from mithridate.defenses.registry import methods
from mithridate.errors import DataError
from tools import method_pages, which_defense


@pytest.fixture(scope="module")
def made():
    return method_pages.pages(methods(), read_cards(method_pages.CARDS))


def test_no_page_is_stale(made):
    kept = {path.stem: path.read_text(encoding="utf-8") for path in method_pages.PAGES.glob("*.md")}
    assert sorted(kept) == sorted(made), "run `make docs`"
    stale = [name for name in made if made[name] != kept[name]]
    assert not stale, f"run `make docs`: {', '.join(stale)}"


def test_a_plug_in_that_is_installed_has_no_page(made):
    class Elsewhere(methods()["lisa"].cls):
        """A defense of another package."""

    Elsewhere.__module__ = "their_package.elsewhere"
    infos = methods() | {"elsewhere": dataclasses.replace(methods()["lisa"], name="elsewhere", cls=Elsewhere)}
    cards = read_cards(method_pages.CARDS)
    assert method_pages.pages(infos, cards) == made
    assert which_defense.page(infos, cards) == which_defense.page(methods(), cards)


def test_every_note_belongs_to_a_page(made):
    assert {path.stem for path in method_pages.NOTES.glob("*.md")} <= made.keys()


def test_a_page_holds_every_setting_with_default_range_and_meaning(made):
    assert "| `radius` | `0.1` | number ≥ 0 | α, length of the simulated attack step. |" in made["booster"]
    for info in methods().values():
        page = made[info.cls.__module__.rpartition(".")[2]]
        for name in info.cls.model_fields:
            (row, *_) = [line for line in page.splitlines() if line.startswith(f"| `{name}` |")]
            values, meaning = row.split(" | ")[2:4]
            assert values.strip(), (info.name, name)
            assert len(meaning.strip(" |")) > 1, f"{info.name}: the docstring does not explain {name}"


def test_a_choice_or_a_dose_is_named_with_its_values(made):
    assert "| `scope` | `adapter` | `adapter`, `delta`, `weights` |" in made["antidote"]
    assert "| `mask_ratio` | `0.1` | number ≥ 0, ≤ 1 or `auto` |" in made["antidote"]


def test_a_docstring_is_cut_at_its_differences():
    text = "A: does b.\n\nX, arXiv 2401.00001.\n\n    g = 1\n\n"
    doc = method_pages.parse(f"{text}Differences. From the paper: one\nthing. From the code: two.", "a")
    assert (doc.title, doc.lead) == ("A", "Does b.")
    assert doc.body == "X, [arXiv 2401.00001](https://arxiv.org/abs/2401.00001).\n\n    g = 1"
    assert doc.differences == ["From the paper: one thing.", "From the code: two."]
    assert method_pages.parse("A: b.\n\nDifferences from the code: none.", "a").differences == ["From the code: none."]
    assert method_pages.parse("A: b.\n\n    g = 1", "a").differences == []


def test_a_docstring_without_title_is_refused():
    with pytest.raises(DataError, match=r"mine\.py: the docstring must start with the method's name and a colon"):
        method_pages.parse("Does something.\n\nMore.", "mine")


def test_a_method_without_card_stops_the_pages():
    cards = {name: card for name, card in read_cards(method_pages.CARDS).items() if name != "lisa"}
    with pytest.raises(DataError, match="lisa: no card"):
        method_pages.pages(methods(), cards)
