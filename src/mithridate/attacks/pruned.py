"""Small weights set to zero."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from mithridate.attacks.attack_registry import register_attack
from mithridate.attacks.attack_settings import Need
from mithridate.attacks.release_attack import AnsweringModel, ReleaseAttack, ReleaseInputs
from mithridate.errors import AttackError
from mithridate.models.activation_sums import input_norms
from mithridate.models.merged_weights import MergedWeights
from mithridate.models.tokenization import tokenize
from mithridate.repair.rewriting import Rewrite


@register_attack(
    "pruned",
    family="after release",
    paper="Pruning after release, 2026 (arXiv:2605.15152); Wanda: Sun et al., ICLR 2024 (arXiv:2306.11695)",
    needs=("benign",),
    evades="repairs that rest on many small weights",
    constants={"sparsity": 0.5},
)
class Pruned(ReleaseAttack):
    """Pruning: of each output's weights, the share with the smallest |W|·‖x‖ (Wanda) or |W| (magnitude) set to zero.

    ‖x‖ is the norm of each input over harmless rows. The suites prune at most half of the weights. An adapter is merged
    first; embeddings, norms and the output head stay as they are.

    Attributes:
        by: What ranks the weights.
        sparsity: Share of each output's weights that is set to zero, rounded down.
        rows: Harmless rows over which inputs are measured.
        max_length: Longest row in tokens.
    """

    rewrites: ClassVar[bool] = True

    by: Literal["wanda", "magnitude"] = "wanda"
    sparsity: float = Field(default=0.5, gt=0, le=0.5)
    rows: int = Field(default=128, ge=1)
    max_length: int | None = Field(default=512, ge=1)

    @property
    def needs(self) -> tuple[Need, ...]:
        """Harmless rows, unless weights are ranked without inputs."""
        return ("benign",) if self.by == "wanda" else ()

    @contextmanager
    def applied(self, model: Any, tokenizer: Any, inputs: ReleaseInputs) -> Iterator[AnsweringModel]:
        """Prune inside the block."""
        weights = MergedWeights(model)
        norms: dict[str, Tensor] = {}
        if self.by == "wanda":
            examples = tokenize(inputs.take("benign", self.rows), tokenizer, self.max_length)
            # All before the first weight changes: a layer's inputs depend on the layers before it.
            norms = input_norms(model, weights.matrices, examples)
        rewrite = Rewrite(weights)
        for name in weights.matrices:
            matrix = weights.matrix(name)
            score = matrix.abs() * norms[name].to(matrix) if norms else matrix.abs()
            rewrite.put(name, weights.read(name), weights.turned(name, _thinned(matrix, score, self.sparsity)))
        if not rewrite.tally.changed:
            raise AttackError("pruning changed no weight; raise sparsity")
        yield AnsweringModel(model, tokenizer)


def _thinned(matrix: Tensor, score: Tensor, sparsity: float) -> Tensor:
    count = int(sparsity * matrix.shape[1])
    # Stable, so that ties fall the same way on every machine.
    lowest = torch.argsort(score, dim=1, stable=True)[:, :count]
    return matrix.scatter(1, lowest, 0.0)
