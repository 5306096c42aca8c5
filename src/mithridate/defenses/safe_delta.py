"""Safe Delta: keep the parts of the task's update that harm safety least, and compensate for them.

Lu, Liu, Wu, Chen, Zhang, Ong, Wang, Tang. "Safe Delta: Consistently Preserving Safety when Fine-Tuning LLMs on Diverse
Datasets", ICML 2025, arXiv 2505.12038.

For each linear layer of the decoder blocks, with Δ = W_tuned − W_aligned and E = W_new − W_aligned, safety is lost by

    ½·tr(E·H·Eᵀ),   H = 2·X·Xᵀ + 0.01·mean(diag(2·X·Xᵀ))·I

where X holds the inputs of the layer in the aligned model on the provider's safe rows (prompt and answer). A kept entry
brings the utility Δ_ij² at the cost Δ_ij²/[H⁻¹]_jj, what it costs once the others have answered to it. So

    keep columns j in order of rising 1/[H⁻¹]_jj  while  Σ_kept Δ_ij²/[H⁻¹]_jj ≤ s·Σ_all Δ_ij²/[H⁻¹]_jj
    E_K = Δ_K,   E_R = −Δ_K·H_KR·H_RR⁻¹    (K kept, R the rest)

Utility per cost is [H⁻¹]_jj, the same for every entry of a column, so whole columns are kept; they are kept up to the
first one that does not fit. E_R is the minimum of the loss of safety over the rest, given E_K: the update of the
Optimal Brain Surgeon for all kept columns at once.

Cost: 1 forward pass of the aligned model over at most `rows` safe rows; one more model, and inputs² floats for every
linear layer, in memory (about 29 GB for a 7B model); for every layer the cube of its inputs in operations.

Differences. This is our reading: the notation leaves open what s is a share of; we take the cost of keeping everything.
From the authors' code: one order over all columns of a layer (there blocks of 1024); the compensation is the exact
minimum (there columns are swept once from left to right, and only later ones compensate); costs use [H⁻¹]_jj itself
(there the squared diagonal of its Cholesky factor, which depends on the order of the columns). Embeddings, norms and
head stay as tuned.
"""

import torch
from pydantic import Field
from torch import Tensor

from mithridate.defenses.registry import register
from mithridate.errors import DefenseError
from mithridate.models.linear_algebra import least_with_columns
from mithridate.repair.post_tuning import Repair
from mithridate.repair.repair_inputs import RepairInputs
from mithridate.repair.repaired import Repaired
from mithridate.repair.rewriting import Rewrite


@register(
    "safe_delta",
    stage="posttuning",
    paper="Safe Delta (Lu et al., ICML 2025, arXiv 2505.12038)",
    streams=("safe",),
    forward=1,
    backward=0,
    off={"scale": float("inf")},
    references=("aligned",),
    extra="a matrix inverse per linear layer",
)
class SafeDelta(Repair):
    """Safe Delta: keep the columns of Δ with the largest [H⁻¹]_jj, compensate in the rest  (1 forward pass).

    Attributes:
        scale: s, share of the safety cost of the whole update that may be kept; all is kept from 1 on.
        rows: Safe rows to use, the first ones.
        damping: Share of the mean of H's diagonal that is added to it.
    """

    by_shard = True

    scale: float = Field(default=0.11, ge=0)
    rows: int = Field(default=128, ge=1)
    damping: float = Field(default=0.01, gt=0, allow_inf_nan=False)

    @property
    def most_rows(self) -> int:
        """The safe rows it uses."""
        return self.rows

    def layer_work(self, outputs: int, inputs: int, tokens: float) -> float:
        """X·Xᵀ, the inverse of H, and the solution for the columns that are not kept, at most all."""
        return 2 * tokens * inputs**2 + (2 + 2 / 3) * inputs**3 + 4 * outputs * inputs**2

    def change(self, inputs: RepairInputs) -> Repaired:
        """Thin and compensate every layer's update in place; LoRA is merged where weights move."""
        if self.scale >= 1:
            return Repaired(changed=0, distance=0.0)
        examples = inputs.rows("safe", self.rows)
        tuned, aligned = inputs.merged_weights("aligned")
        layers = {name: aligned.matrices[name] for name in tuned.matrices if tuned.differs(aligned, name)}
        if not layers:
            raise DefenseError("fine-tuning changed no linear layer, so there is nothing to thin out; check aligned=")
        # Of the aligned model, whose behavior on safe rows is to be kept.
        grams = inputs.input_grams("aligned", layers, examples)
        rewrite = Rewrite(tuned)
        # In the model's order, in which the sums over a block are made and forgotten.
        for name in tuned.each(list(layers), rewrite.tally, in_order=True):
            delta = tuned.change_from(aligned, name)
            # Popped, so that each layer's matrix of inputs² is freed once it has been used.
            hessian = self._hessian(grams.pop(name).to(delta), name)
            keep = self._kept(delta, hessian)
            rewrite.add(name, least_with_columns(delta, keep, hessian) - delta)
            rewrite.tally.figures[name] = {"kept": int(keep.sum()), "columns": len(keep)}
        kept, columns = int(rewrite.tally.total("kept")), int(rewrite.tally.total("columns"))
        return rewrite.repaired({"columns_kept": kept, "columns": columns, "safe_rows": len(examples)})

    def _hessian(self, gram: Tensor, name: str) -> Tensor:
        """H = 2·X·Xᵀ + damping·mean(diag(2·X·Xᵀ))·I."""
        hessian = 2 * gram
        damping = self.damping * hessian.diagonal().mean()
        if not damping > 0:
            raise DefenseError(f"no safe row reaches '{name}' with inputs other than zero; give other safe rows")
        return hessian + damping * torch.eye(len(hessian)).to(hessian)

    def _kept(self, delta: Tensor, hessian: Tensor) -> Tensor:
        """K, (inputs,): columns by rising 1/[H⁻¹]_jj while Σ_kept Δ_ij²/[H⁻¹]_jj ≤ s·Σ_all Δ_ij²/[H⁻¹]_jj."""
        # [H⁻¹]_jj is the variance of input j that the others do not explain, the larger the cheaper to keep.
        inverse = torch.linalg.inv(hessian).diagonal()
        costs = delta.square().sum(dim=0) / inverse
        order = inverse.argsort(descending=True, stable=True)
        keep = torch.zeros_like(inverse, dtype=torch.bool)
        # No cost is negative, so the running sum never falls and what is kept is the beginning of the order.
        keep[order] = costs[order].cumsum(dim=0) <= self.scale * costs.sum()
        return keep
