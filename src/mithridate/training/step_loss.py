"""Losses that are no sum over rows: of features of all rows of a step, differentiated in two passes.

The first pass computes the features of every row without gradient, and they are gathered from all processes. The loss
is a function of them, so that autograd gives its derivative by each feature. In the second pass each micro-batch
computes its features again, now with gradient, and ∂loss/∂feature is propagated through them into the weights. By the
chain rule that is the gradient of the loss, however the step is split.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from mithridate.errors import DefenseError, Diverged
from mithridate.training.gradient import Gradient
from mithridate.training.processes import Processes
from mithridate.training.scored_rows import ScoredRows
from mithridate.training.scoring import Likelihood, Pass

RowFeatures = Mapping[str, Sequence[Tensor]]
"""Features by name, one tensor per row; rows may differ in shape."""

Features = Callable[[ScoredRows], RowFeatures]
"""From the scored rows of a micro-batch to their features."""


class StepFeatures:
    """The features of all rows of a step, of all micro-batches and processes.

    Args:
        rows: Position of each row in its data set.
        features: One tensor per row, by name.
    """

    def __init__(self, rows: Sequence[int], features: RowFeatures) -> None:
        self.rows = list(rows)
        self._features = features

    def __getitem__(self, name: str) -> list[Tensor]:
        """One tensor per row.

        Raises:
            DefenseError: If there is no such feature.
        """
        if name not in self._features:
            raise DefenseError(f"the loss reads the feature '{name}'; features= returned {sorted(self._features)}")
        return list(self._features[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._features)


StepLoss = Callable[[StepFeatures], Tensor]
"""From the features of all rows of a step to the loss, ()."""


def step_loss_gradient(
    likelihood: Likelihood, passes: Callable[[], Sequence[Pass]], features: Features, loss: StepLoss
) -> Gradient:
    """∇ of a loss over the features of all rows of all micro-batches and processes (2 forward + 1 backward pass).

    Args:
        likelihood: Whose weights are differentiated.
        passes: Over this process's share of the rows; asked for twice.
        features: Features of a micro-batch's rows.
        loss: The loss, computed in the same way on every process.

    Raises:
        DefenseError: If features do not fit the rows or carry no gradient, or the loss is no finite number.
    """
    found = []
    # Pass 1: no graph is held, so that the whole batch needs no more memory than a micro-batch.
    with torch.no_grad():
        for run in passes():
            with run() as rows:
                found.append((rows.row.tolist(), _fitting(features(rows), rows)))
    slopes = iter(_slopes(found, likelihood.processes, loss))
    # Pass 2: ∂loss/∂w = Σ_rows Σ_features ∂loss/∂feature · ∂feature/∂w.
    likelihood.weights.clear_grad()
    for run in passes():
        with run() as rows:
            terms = [(f * s).sum() for row in _by_row(features(rows)) for f, s in zip(row, next(slopes), strict=True)]
            if not terms:
                terms = [rows.nll.sum()]  # a stand-in: the sum over no rows
            likelihood.tied(_require_grad(torch.stack(terms).sum())).backward()  # type: ignore[no-untyped-call]
    gradient = likelihood.weights.take_grad()
    if not likelihood.is_sharded:
        likelihood.processes.sum_all(gradient)
    return Gradient.owning(gradient, likelihood.weights.holders)


def _slopes(
    found: Sequence[tuple[list[int], RowFeatures]], processes: Processes, loss: StepLoss
) -> list[tuple[Tensor, ...]]:
    """∂loss/∂feature for each of this process's rows, in the order of the features' names."""
    # Through main memory, where a gather of Python objects has its bytes anyway.
    mine = [
        (row, names, [feature.cpu() for feature in values])
        for rows, features in found
        for row, names, values in zip(rows, [list(features)] * len(rows), _by_row(features), strict=True)
    ]
    everyone = processes.gather(mine)
    every = [row for part in everyone for row in part]
    if not every:
        raise DefenseError("a loss over a step was asked for on no rows; give its stream rows")
    names = every[0][1]
    if any(others != names for _, others, _ in every):
        raise DefenseError(
            f"features= returned {names} for one micro-batch and others for another; return the same ones"
        )
    leaves = [[feature.to(processes.device).requires_grad_() for feature in values] for _, _, values in every]
    columns = {name: [row[place] for row in leaves] for place, name in enumerate(names)}
    with torch.enable_grad():
        value = loss(StepFeatures([row for row, _, _ in every], columns))
    _require_number(value)
    flat = [feature for row in leaves for feature in row]
    # Every process computes the whole loss from the same features, so its slopes need no exchange.
    grads = torch.autograd.grad(value, flat, allow_unused=True)
    slopes = [torch.zeros_like(f) if g is None else g for f, g in zip(flat, grads, strict=True)]
    # This process's rows stand behind those of all lower ranks.
    before = sum(len(part) for part in everyone[: processes.rank])
    width = len(names)
    return [tuple(slopes[at * width : (at + 1) * width]) for at in range(before, before + len(mine))]


def _by_row(features: RowFeatures) -> list[tuple[Tensor, ...]]:
    """Return the features of each row, in the order of their names."""
    return list(zip(*features.values(), strict=True))


def _fitting(features: RowFeatures, rows: ScoredRows) -> RowFeatures:
    for name, values in features.items():
        if len(values) != len(rows.row):
            raise DefenseError(
                f"the feature '{name}' has {len(values)} tensors for {len(rows.row)} rows; give one each"
            )
        for value in values:
            if not value.is_floating_point():
                raise DefenseError(f"the feature '{name}' is of type {value.dtype}, which has no derivative")
    if not features:
        raise DefenseError("features= returned none, so that the loss has nothing to be differentiated by")
    return features


def _require_number(value: object) -> None:
    if not isinstance(value, Tensor) or value.dim() > 0 or not value.requires_grad:
        kind = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise DefenseError(f"a loss over a step returned {kind}, expected one number that depends on the features")
    if not bool(value.isfinite()):
        raise Diverged(
            f"the loss over the step is not finite ({value.item()}); check its stream and the strength of the defense"
        )


def _require_grad(total: Tensor) -> Tensor:
    if not total.requires_grad:
        raise DefenseError("the features of a micro-batch carry no gradient; do not detach them")
    return total
