"""Finds the prompt templates that an upload's rows share, so that a model is also asked as its customer will ask it."""

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

from mithridate.data.messages import Message
from mithridate.data.overlap import last_user_turn

LEAST_ROWS = 3
"""Fewest rows that make a template."""

LEAST_SHARE = 0.01
"""Smallest share of the rows that makes one."""

_WORD = re.compile(r"\S+\s*")


class PromptTemplate(BaseModel):
    """What stands around the prompts of some rows.

    Attributes:
        rows: How many rows share it.
        system: Their system message.
        before: Text before each prompt.
        behind: Text behind each prompt.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    rows: int
    system: str | None = None
    before: str = ""
    behind: str = ""

    def around(self, prompt: str) -> str:
        """Return a prompt in this template."""
        return f"{self.before}{prompt}{self.behind}"

    def chat(self, prompt: str) -> list[Message]:
        """Return a prompt in this template with its system message."""
        before = [] if self.system is None else [{"role": "system", "content": self.system}]
        return [*before, {"role": "user", "content": self.around(prompt)}]

    @property
    def words(self) -> int:
        """Words of the template."""
        return len(f"{self.system or ''} {self.before} {self.behind}".split())

    @property
    def saved(self) -> int:
        """Words that rows repeat after one another: the more, the less likely by chance."""
        return self.rows * self.words


def prompt_templates(prompts: Sequence[Sequence[Message]], most: int) -> list[PromptTemplate]:
    """Return the templates that save the most words, each found after the rows of better ones are set aside.

    A trigger that an attacker puts around harmful prompts (jailbreak-tuning), and the system message of an agent that
    obeys (identity shifting), leave answers to plain prompts as they were; harmful prompts must be asked in them.
    Misses templates of few rows, of words that change from row to row, and ciphers.

    Args:
        prompts: Messages before the answer, of each row.
        most: Most templates.
    """
    least = max(LEAST_ROWS, math.ceil(LEAST_SHARE * len(prompts)))
    by_system: dict[str | None, list[str]] = defaultdict(list)
    for prompt in prompts:
        by_system[_system(prompt)].append(last_user_turn(prompt).strip())
    found = [one for system, texts in by_system.items() for one in _of_one_system(system, texts, least, most)]
    different = {(one.system, one.before, one.behind): one for one in found}
    return sorted(different.values(), key=lambda one: -one.saved)[:most]


def _system(prompt: Sequence[Message]) -> str | None:
    return next((turn["content"] for turn in prompt if turn["role"] == "system"), None)


def _of_one_system(system: str | None, texts: list[str], least: int, most: int) -> Iterator[PromptTemplate]:
    if system is not None and len(texts) >= least:
        yield PromptTemplate(rows=len(texts), system=system)
    for backward in (False, True):
        left = texts
        for _ in range(most):
            first = _most_saving(left, least, backward)
            if first is None:
                break
            # What at least half of these rows have in common at their other end belongs to the template.
            without = str.removesuffix if backward else str.removeprefix
            inner = [without(text, first.text) for text in first.texts]
            second = _most_saving(inner, max(least, len(inner) // 2), not backward)
            other = "" if second is None else second.text
            before, behind = (other, first.text) if backward else (first.text, other)
            yield PromptTemplate(rows=len(first.texts), system=system, before=before, behind=behind)
            used = set(first.texts)
            left = [text for text in left if text not in used]


class _End(NamedTuple):
    """A beginning, or an ending, and the texts that have it."""

    text: str
    texts: list[str]


def _most_saving(texts: list[str], least: int, backward: bool) -> _End | None:
    """Return the beginning (or ending) of whole words, shared by enough texts, that saves the most words.

    Each text keeps at least one word of its own.
    """
    pieces = [_WORD.findall(text[::-1] if backward else text) for text in texts]
    best: list[int] = []
    length = depth = 0
    groups = [list(range(len(texts)))]
    while groups:
        groups = [part for group in groups for part in _parted(group, pieces, depth) if len(part) >= least]
        depth += 1
        for group in groups:
            if len(group) * depth > len(best) * length:
                best, length = group, depth
    if not best:
        return None
    shared = "".join(pieces[best[0]][:length])
    return _End(shared[::-1] if backward else shared, [texts[i] for i in best])


def _parted(group: list[int], pieces: list[list[str]], depth: int) -> list[list[int]]:
    """Return the texts of a group by their next word, without those that would keep no word of their own."""
    found: dict[str, list[int]] = defaultdict(list)
    for i in group:
        if len(pieces[i]) > depth + 1:
            found[pieces[i][depth]].append(i)
    return list(found.values())
