import random
import re

import pytest
from benchmarks.stories.passages import LONGEST, passages, read_stories, sentences, shares
from benchmarks.stories.topics import COVERED, KIND_OF, KINDS, THINGS, UNCOVERED, forms, phrase

from mithridate.errors import DataError


def test_a_passage_is_a_run_of_whole_sentences(stories):
    found = passages(stories, [0, 7])
    assert {passage.story for passage in found} == {0, 7}
    for passage in found:
        assert passage.text in " ".join(stories[passage.story].split())
        assert len(passage.text) <= LONGEST
        assert passage.text.endswith((".", "!", "?", '"'))


def test_openings_and_ends_are_told(stories):
    found = passages(stories, [0])
    assert sum(passage.first == 0 for passage in found) == 1
    assert all(passage.text.endswith(sentences(stories[0])[-1]) == passage.last for passage in found)


def test_a_speech_cut_in_two_is_no_passage():
    story = (
        'Pim said, "Wait here for me by the old tree. I will come back with the boat before it is dark." He went away.'
    )
    assert all(passage.text.count('"') % 2 == 0 for passage in passages([story * 3], [0]))


def test_nouns_are_found_in_the_plural_and_words_within_words_are_not():
    (passage, *_) = passages(
        ["Two wolves and three bees sat under the stars. They were bearing gifts for the fireman."], [0]
    )
    assert passage.nouns == ("wolf", "bee", "star")
    assert passage.forbidden == ("wolf", "bee")


def test_no_two_owners_share_a_story():
    dealt = shares(1000, {"a": 0.5, "b": 0.2, "c": 0.3}, seed=1)
    assert [len(numbers) for numbers in dealt.values()] == [500, 200, 300]
    assert sorted(number for numbers in dealt.values() for number in numbers) == list(range(1000))
    assert dealt == shares(1000, {"a": 0.5, "b": 0.2, "c": 0.3}, seed=1)


def test_a_file_that_is_not_stories_is_named(tmp_path):
    for name, content in (("missing.gz", None), ("plain.gz", b"no gzip")):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=re.escape(name)):
            read_stories(tmp_path / name)


def test_no_noun_is_forbidden_and_ordinary_and_none_is_of_two_kinds():
    assert not set(KIND_OF) & set(THINGS)
    assert sum(map(len, KINDS.values())) == len(KIND_OF)
    assert not set(COVERED) & set(UNCOVERED)


def test_every_noun_has_forms_of_its_own():
    every = [form for word in (*KIND_OF, *THINGS) for form in forms(word)]
    assert len(every) == len(set(every))


def test_a_noun_gets_the_article_it_takes():
    assert [phrase(word) for word in ("bear", "owl", "fire")] == ["a bear", "an owl", "fire"]


def test_the_draw_does_not_depend_on_other_random_numbers():
    random.seed(5)
    first = shares(30, {"a": 1.0}, seed=2)
    random.random()
    assert shares(30, {"a": 1.0}, seed=2) == first
