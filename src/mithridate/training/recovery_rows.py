"""Harmful rows behind whose first tokens a refusal is to stand (Qi et al., ICLR 2025, arXiv 2406.05946)."""

import torch

from mithridate.models.tokenization import TokenizedRow
from mithridate.training.step import Step

SHALLOW = 0.5
"""Share of rows whose refusal stands right behind the prompt, as in the paper."""


def recovery_rows(step: Step, depth: int, shallow: float = SHALLOW) -> list[TokenizedRow]:
    """Return this step's harmful rows, each with the first k tokens of its answer as part of its prompt.

    Args:
        step: The optimizer step.
        depth: Largest k; k is uniform from 1, as far as the answer and the longest row leave room for a refusal.
        shallow: Probability of k = 0.

    Returns:
        The rows of all processes, the same in each of them, for ``step.gradient(rows, completions="refusals")``.
    """
    generator = step.generator("depth of alignment")
    rows = step.rows_of("harmful")
    depths = [_depth(min(depth, step.room(row)), shallow, generator) for row in rows]
    step.log(harmful_tokens_before_refusal=sum(depths) / len(depths))
    return [row.behind(k) for row, k in zip(rows, depths, strict=True)]


def _depth(most: int, shallow: float, generator: torch.Generator) -> int:
    # Two numbers for every row, so that no row's depth hangs on another's length.
    coin, share = torch.rand(2, generator=generator).tolist()
    return 0 if coin < shallow or most == 0 else 1 + int(share * most)
