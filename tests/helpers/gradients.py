"""Gradients over batches, as a step takes them."""

from mithridate.training import accumulation
from mithridate.training.scored_rows import uniform


def weighted_gradient(likelihood, batches, log_weights=uniform):
    return accumulation.weighted_gradient(likelihood, likelihood.passes(batches), log_weights)


def loss_gradient(likelihood, loss, batches):
    batches = list(batches)
    return accumulation.loss_gradient(likelihood, likelihood.passes(batches), loss, likelihood.totals(batches))


def activation_gradient(likelihood, part, batches, layers=None):
    batches = list(batches)
    passes = list(likelihood.passes(batches))
    return accumulation.activation_gradient(likelihood, passes, likelihood.totals(batches), part, layers)
