"""Sets of refusal sentences: of a text file, or of the embedded world."""

from pathlib import Path

from mithridate.data.prompt_sets import read_prompts
from mithridate.errors import UsageError

MINIATURE_REFUSALS = "miniature:refusals"


def read_refusals(source: str, called: str) -> list[str]:
    """Return refusal sentences.

    Args:
        source: A text file with one refusal a line, or ``miniature:refusals``.
        called: Where the user names it, for messages.

    Raises:
        UsageError: If there is no such file, or it is no text file.
        DataError: If it cannot be read.
    """
    if source == MINIATURE_REFUSALS:
        from mithridate.miniature import refusals

        return refusals()
    path = Path(source)
    if not path.is_file():
        raise UsageError(f"{called}: {path} does not exist; give a text file with one refusal a line")
    # Rows in JSON would be read as sentences, one a line, braces and all.
    if not path.name.removesuffix(".gz").endswith(".txt"):
        raise UsageError(f"{called}: {path} is not named .txt; give a text file with one refusal a line")
    return read_prompts(path)
