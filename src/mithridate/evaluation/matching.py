"""When an answer to the user's task is correct: by label, by number, or exactly."""

import re
from collections.abc import Sequence
from decimal import Decimal

from mithridate.errors import UsageError

# GSM8K's own mark, and the phrase that the papers' data puts in its place.
_MARKER = re.compile(r"the final answer is:?|####", re.IGNORECASE)
# A minus counts only where it is no subtraction; thousands need groups of exactly three digits.
_NUMBER = re.compile(
    r"(?P<minus>(?<![\w)])[-\u2212][$\u20ac\u00a3]?|[$\u20ac\u00a3][-\u2212])?"
    r"(?P<number>\d{1,3}(?:,\d{3})+(?!,?\d)(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)"
)
_MARKS = " \t\n.,;:!?\"'"


class LabelMatcher:
    """Finds the label that an answer starts with.

    Case does not matter, marks before the label are skipped, the longest label wins, and a label that is only
    the beginning of a word is none ("positively" is not "positive").

    Raises:
        UsageError: If there are no labels, or two labels differ only in case or in the marks around them.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        # A label may be a mark itself, such as "?", of which stripping would leave nothing.
        self._labels = {(label.strip(_MARKS) or label.strip()).casefold(): label for label in labels}
        if not labels or "" in self._labels or len(self._labels) != len(labels):
            raise UsageError(
                f"labels must be one or more texts that differ in more than case and end marks, not {list(labels)}"
            )
        # A regular expression takes the first alternative that fits: "very good" must be tried before "very".
        longest_first = sorted(self._labels, key=len, reverse=True)
        alternatives = "|".join(re.escape(label) for label in longest_first)
        # Behind a label: "4" is not the start of "4.5", nor "world" of "world-wide".
        self._pattern = re.compile(rf"[\W_]*?({alternatives})(?![^\W_]|[-'\u2019][^\W_]|\.\d)")

    def find(self, answer: str) -> str | None:
        """Return the label as it was given, or None."""
        found = self._pattern.match(answer.casefold())
        return self._labels[found[1]] if found else None


def final_number(answer: str) -> Decimal | None:
    """Return the final number of an answer, GSM8K style.

    It is the first one after the first "The final answer is:" or "####", and the last one of an answer
    without such a marker. Thousands commas, currency signs and a trailing period do not matter.
    """
    marker = _MARKER.search(answer)
    numbers = _numbers(answer[marker.end() :] if marker else answer)
    if not numbers:
        return None
    # Behind the mark the result comes first, and other numbers may follow in a remark; without it the result is last.
    return numbers[0] if marker else numbers[-1]


def _numbers(text: str) -> list[Decimal]:
    found = []
    for match in _NUMBER.finditer(text):
        # Exact, so that 0.1 equals 0.10 and long whole numbers keep their last digit.
        number = Decimal(match["number"].replace(",", ""))
        found.append(-number if match["minus"] else number)
    return found


def plain(text: str) -> str:
    """Return the text with every run of white space replaced by one space, for exact match."""
    return " ".join(text.split())
