"""How many tokens a model was made for."""

import math
from typing import Any


def most_positions(settings: Any) -> float:
    """Return the most tokens of a model's settings (`config`); infinitely many where they name no limit, as for ALiBi.

    A model that also reads images keeps the limit with its text part.
    """
    return getattr(settings.get_text_config(), "max_position_embeddings", None) or math.inf
