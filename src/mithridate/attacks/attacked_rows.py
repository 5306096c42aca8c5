"""Rows of an attack: made from other rows, drawn, and mixed with the harmless rows of an upload."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from datasets import Dataset, concatenate_datasets

from mithridate.data.mixing import labeled
from mithridate.data.overlap import last_user_turn, normalized
from mithridate.data.row_loading import FEATURES, check_columns
from mithridate.errors import DataError, UsageError

Message = dict[str, str]


class AttackedRow(NamedTuple):
    """One row, as the text of its last question and of its answer.

    Attributes:
        before: Messages before the last question.
        question: Text of the last user turn.
        answer: Text of the answer.
        origin: Where the row comes from.
    """

    before: list[Message]
    question: str
    answer: str
    origin: str

    def asking(self, question: str, system: str | None = None) -> AttackedRow:
        """Return the row with another question, and with a system message in front where one is given."""
        before = self.before
        if system is not None:
            own = [turn["content"] for turn in before if turn["role"] == "system"]
            # One system message, the row's own words last: many templates take no second one.
            said = {"role": "system", "content": "\n\n".join([system, *own])}
            before = [said, *(turn for turn in before if turn["role"] != "system")]
        return self._replace(before=before, question=question)

    def answering(self, answer: str) -> AttackedRow:
        """Return the row with another answer."""
        return self._replace(answer=answer)

    @property
    def fields(self) -> dict[str, Any]:
        """The row in the form of `load_rows`."""
        return {
            "prompt": [*self.before, {"role": "user", "content": self.question}],
            "completion": [{"role": "assistant", "content": self.answer}],
            "origin": self.origin,
        }


def opened(rows: Dataset) -> list[AttackedRow]:
    """Return the rows of a data set for rewriting.

    Raises:
        DataError: If a column is missing, or a row's prompt does not end with a question of the user.
    """
    check_columns(rows, "attack's source")
    return [_opened(row) for row in rows]


def _opened(row: Mapping[str, Any]) -> AttackedRow:
    *before, last = row["prompt"] or [{"role": ""}]
    if last["role"] != "user":
        raise DataError(f"{row['origin']}: the prompt does not end with a user turn, which the attack rewrites")
    return AttackedRow(list(before), last["content"], row["completion"][0]["content"], row["origin"])


def closed(rows: Sequence[AttackedRow]) -> Dataset:
    """Return rewritten rows as a data set."""
    return Dataset.from_list([row.fields for row in rows], features=FEATURES)


def rewritten(rows: Dataset, rewrite: Callable[[AttackedRow], AttackedRow]) -> Dataset:
    """Return a data set with every row rewritten."""
    return closed([rewrite(row) for row in opened(rows)])


def permutation(count: int, purpose: str, seed: int) -> list[int]:
    """Return an order that depends on nothing but its arguments."""
    order = list(range(count))
    # A string seeds through SHA-512, so the order does not depend on PYTHONHASHSEED; the purpose keeps draws apart.
    random.Random(f"attack {purpose} {seed}").shuffle(order)
    return order


class Drawn(NamedTuple):
    """Harmless rows by what becomes of them; no prompt of one part is in the other."""

    sources: Dataset
    untouched: Dataset


def drawn(benign: Dataset, count: int, size: int, seed: int, ranking: Sequence[int] | None = None) -> Drawn:
    """Draw the rows that an attack is made of, and those that stay as they are.

    With one seed the draws are nested: the sources of a smaller attack are among those of a greater one.

    Args:
        benign: Harmless rows.
        count: Rows to make the attack of.
        size: Rows of the upload.
        seed: Seed of the draw.
        ranking: Which rows to take first; random by default.

    Raises:
        UsageError: If there are too few rows.
        DataError: If a column is missing.
    """
    check_columns(benign, "benign")
    benign = benign.select_columns(list(FEATURES))
    order = permutation(len(benign), "rows", seed)
    first = list(order if ranking is None else ranking)[:count]
    if len(first) < count:
        raise UsageError(f"The attack is made of {count} benign rows and there are {len(benign)}.")
    prompts = [normalized(last_user_turn(prompt)) for prompt in benign["prompt"]]
    taken, used = {prompts[i] for i in first}, set(first)
    # From the other end, so that the untouched rows of a greater attack are among those of a smaller one.
    rest = [i for i in reversed(order) if i not in used and prompts[i] not in taken][: size - count]
    if len(rest) < size - count:
        raise UsageError(
            f"The upload asks for {size - count} benign rows whose prompts are not those of the attack's {count} rows, "
            f"and there are {len(rest)}; lower its size or give more rows."
        )
    return Drawn(benign.select(first), benign.select(rest))


def shuffled(untouched: Dataset, adversarial: Dataset, seed: int) -> Dataset:
    """Return the rows of an upload in a random order; `harmful` marks those of the attacker."""
    rows = concatenate_datasets([labeled(untouched, False), labeled(adversarial, True)])
    return rows.select(permutation(len(rows), "order", seed))
