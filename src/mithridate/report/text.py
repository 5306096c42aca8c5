"""How numbers and foreign text are shown: percent, points, seconds, bytes, and strings that cannot do harm."""

import math
import unicodedata

from mithridate.report.scores import ScoreOverSeeds

NOTHING = "–"
MINUS = "−"
# Characters that could reorder or hide text, or steer a terminal: control, format, surrogate, private use.
UNSAFE_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co"})


def percent(share: float) -> str:
    """Return a fraction in 0..1 as percent with one decimal."""
    # abs: a share may be -1e-17 by rounding, which would print as -0.0%.
    return f"{abs(100 * share):.1f}%"


def interval(score: ScoreOverSeeds) -> str:
    """Return the 95 % interval in percent, without the sign."""
    return f"[{abs(100 * score.low):.1f}, {100 * score.high:.1f}]"


def points(difference: float) -> str:
    """Return a signed difference of two fractions in percentage points."""
    rounded = round(100 * difference, 1)
    sign = "+" if rounded > 0 else MINUS if rounded < 0 else "±"
    return f"{sign}{abs(rounded):.1f} points"


def p_value(value: float) -> str:
    """Return a p-value, never as zero."""
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}" if value < 0.1 else f"p = {value:.2f}"


def seconds(value: float) -> str:
    """Return a duration in the unit that suits it."""
    if value < 100:
        return f"{value:.1f} s"
    if value < 7200:
        return f"{value / 60:.1f} min"
    return f"{value / 3600:.1f} h"


def memory(value: int) -> str:
    """Return a number of bytes in binary units."""
    size = float(value)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def number(value: float) -> str:
    """Return a measured number with four significant digits; whole numbers in full."""
    if isinstance(value, int) or (math.isfinite(value) and value.is_integer() and abs(value) < 1e9):
        return f"{value:,.0f}".replace("-", MINUS)
    return f"{value:.4g}".replace("-", MINUS)


def clean(text: str, *, lines: bool = False) -> str:
    """Return the text with characters that could reorder, hide or control made visible.

    Args:
        text: Text from a data file or a model.
        lines: Keep line breaks and tabs.
    """
    kept = "\n\t" if lines else ""
    return "".join(
        character if character in kept or unicodedata.category(character) not in UNSAFE_CATEGORIES else "�"
        for character in text
    )


def shorten(text: str, limit: int) -> str:
    """Return the text cut to `limit` characters, the last of them an ellipsis."""
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"
