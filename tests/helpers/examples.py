"""How many examples Hypothesis tries."""

from hypothesis import settings


def examples(number: int) -> int:
    """So many every night; of each hundred as many at every commit as the tests' settings say for one hundred."""
    return max(4, number * settings.default.max_examples // 100)
