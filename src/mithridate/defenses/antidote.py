"""Antidote: prune the weights that matter most to harmful answers, once, after fine-tuning.

Huang, Bhattacharya, Joshi, Kimball, Liu. "Antidote", ICML 2025, arXiv 2408.09600.

    score_ij = |W_ij| · sqrt( Σ_rows Σ_tokens x_j² / rows ),   the top α of the scores are set to zero

with x the activation that enters the layer on harmful rows (prompt and answer). Cost: 1 forward pass over these rows.

Scopes: `adapter` prunes the LoRA factors A and B as two matrices (the released code; default), `delta` the merged
update ΔW = scale·B·A, `weights` the whole weights. Ranking: `row` takes the top α of every output row (the released
code; default), `global` one ranking over everything (the paper's formula read literally).

Differences. From the paper: root mean square over rows of the activation norms, as in the released code, where the
paper averages norms. From the released code: only rows of one length run together, so that pad tokens and batch sizes
cannot change the mask; the first row is not dropped; one pass, not two per layer. Rounding is the code's:
columns − int(columns·(1−α)) entries per row.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from mithridate.defenses.registry import register
from mithridate.errors import DefenseError
from mithridate.models.adapter_layers import has_lora
from mithridate.models.merged_weights import MergedWeights
from mithridate.models.tokenization import TokenizedRow
from mithridate.models.undo import undone
from mithridate.repair.post_tuning import Dose, Repair
from mithridate.repair.prunable import Prunable, Prunables, prunable
from mithridate.repair.ranking import Score, TopShare, top_of_rows, zeroed
from mithridate.repair.repair_inputs import RepairInputs
from mithridate.repair.repaired import DoseCurve, Repaired
from mithridate.repair.rewriting import Rewrite
from mithridate.repair.tally import Tally

PAPER = "Antidote (Huang et al., ICML 2025, arXiv 2408.09600)"


@register(
    "antidote",
    stage="posttuning",
    paper=PAPER,
    streams=("harmful",),
    forward=1,
    backward=0,
    off={"mask_ratio": 0.0},
)
class Antidote(Repair):
    """Antidote: zero the top α of |w|·‖x‖ on harmful rows  (1 forward pass over them).

    Attributes:
        mask_ratio: α, share of weights set to zero, or ``"auto"`` for the largest one within the budgets.
        scope: What is pruned: LoRA factors, merged update, or whole weights.
        ranking: Whether α holds for every output row or over all entries.
        score: ``wanda`` is |w|·‖x‖; ``magnitude`` |w| alone, the paper's score without harmful rows.
    """

    dose = "mask_ratio"
    by_shard = True

    mask_ratio: Annotated[float, Field(ge=0, le=1)] | Literal["auto"] = 0.1
    scope: Literal["adapter", "delta", "weights"] = "adapter"
    ranking: Literal["row", "global"] = "row"
    score: Literal["wanda", "magnitude"] = "wanda"
    if TYPE_CHECKING:  # every dose can also be given as strength, which `Settings` sets
        strength: Dose = 0.0

    @property
    def needs_adapter(self) -> bool:
        """Only whole weights can be pruned without one."""
        return self.scope != "weights"

    @property
    def merges(self) -> bool:
        """Factors are pruned where they are."""
        return self.scope != "adapter"

    def change(self, inputs: RepairInputs) -> Repaired:
        """Prune the model in place; with the scopes ``delta`` and ``weights`` the adapter is merged first."""
        rows = inputs.rows("harmful")
        found = prunable(inputs.model, self.scope, lambda: inputs.merged_weights()[0])
        norms = self._norms(inputs, found.matrices, rows)
        curve = self._search(inputs, found, norms) if self.mask_ratio == "auto" else None
        ratio = curve.chosen if curve else float(self.mask_ratio)
        tally = self._pruned(found, norms, ratio)
        pruned = int(tally.total("pruned"))
        # It would report entries pruned and leave the model as it was.
        if pruned and not tally.changed:
            raise DefenseError("all entries with the highest scores are zero already, so nothing is left to prune")
        return Repaired(
            changed=tally.changed,
            distance=tally.distance,
            activity={
                "mask_ratio": ratio,
                "entries_pruned": pruned,
                "entries": int(tally.total("entries")),
                "harmful_rows": len(rows),
            },
            dose_curve=curve,
            merged=tally.changed > 0 and self.merges and has_lora(inputs.model),
        )

    def _norms(
        self, inputs: RepairInputs, matrices: Sequence[Prunable], rows: Sequence[TokenizedRow]
    ) -> dict[str, Tensor]:
        """‖x‖ by input, (inputs,), by the matrix's name; 1 where the weights alone are ranked."""
        if self.score == "magnitude":
            return {matrix.name: torch.ones((), dtype=torch.float64) for matrix in matrices}
        norms = inputs.input_norms({matrix.name: matrix.layer for matrix in matrices}, rows)
        broken = [name for name, norm in norms.items() if not bool(norm.isfinite().all())]
        if broken:
            raise DefenseError(
                f"what enters {broken[0]} on harmful rows is not finite, so it ranks nothing; check rows"
            )
        return norms

    def _pruned(self, found: Prunables, norms: dict[str, Tensor], ratio: float) -> Tally:
        """Set the top-scored entries to zero, and count what that changed."""
        if found.as_stored and self.ranking == "row" and found.weights is not None:
            return _prune_rows(found.weights, norms, ratio)

        def scored(matrix: Prunable) -> Score:
            return lambda: matrix.read().abs() * norms[matrix.name]

        return self._prune(found, {matrix.name: scored(matrix) for matrix in found.matrices}, ratio)

    @torch.no_grad()
    def _prune(self, found: Prunables, scores: dict[str, Score], ratio: float) -> Tally:
        """As `_pruned`, whatever the matrices are, by scores (outputs, inputs) by name."""
        matrices, tally = {matrix.name: matrix for matrix in found.matrices}, Tally()
        names = list(matrices)
        # One ranking over all matrices, or one for each row of each.
        top = TopShare(scores, lambda entries: count(entries, ratio)) if self.ranking == "global" and ratio else None
        for name in found.weights.each(names, tally) if found.weights is not None else names:
            mask = by_row(scores[name](), ratio) if top is None else top.mask(name)
            tally.figures[name] = {"pruned": int(mask.sum()), "entries": mask.numel()}
            if mask.any():
                matrices[name].put(zeroed(matrices[name].read(), mask), tally)
        return tally

    def _search(self, inputs: RepairInputs, found: Prunables, norms: dict[str, Tensor]) -> DoseCurve:
        @contextmanager
        def dosed(ratio: float) -> Iterator[None]:
            with undone():
                self._pruned(found, norms, ratio)
                yield

        return self.search(inputs, "mask_ratio", RATIOS, dosed)


def _prune_rows(weights: MergedWeights, norms: Mapping[str, Tensor], ratio: float) -> Tally:
    """Set the top-scored entries of every row to zero, a few rows at a time, and count what that changed."""
    rewrite = Rewrite(weights)
    for name in norms:
        rows, columns = weights.shape(name)
        rewrite.tally.figures[name] = {"pruned": rows * count(columns, ratio), "entries": rows * columns}

    def new(name: str, w: Tensor) -> Tensor:
        return zeroed(w, by_row(w.abs() * norms[name].to(w), ratio))

    rewrite.put_rows(list(norms), new)
    return rewrite.tally


def count(entries: int, ratio: float) -> int:
    """Entries to prune: rounded up, and none at ratio 0."""
    return entries - int(entries * (1 - ratio))


def by_row(score: Tensor, ratio: float) -> Tensor:
    """Return the mask of the top share of every output row; of equal scores the first, on every device."""
    return top_of_rows(score, count(score.shape[1], ratio))


RATIOS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8)
"""Mask ratios tried by ``"auto"``."""
