"""One row per registered method: what the matrix needs to know to test it."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.matrix import references

Draw = Callable[[random.Random], dict[str, Any]]


@dataclass(frozen=True)
class Row:
    """How one method is tested.

    Attributes:
        reference: The method once more, written from its formula (see `references`).
        draw: Random settings for one case, every setting that the formula has.
        active: Logged figures that must be above zero at default strength.
        default: Settings at default strength, where the class itself has no default.
        needs_lora: Whether these settings act on an adapter only.
        merges: Whether a repair with these settings may merge the adapter, so that only W + scale·B·A is defined.
        adds_at_end: Whether training ends with a displacement kept by the reference as ``memory["last"]``.
    """

    reference: Callable[..., Any]
    draw: Draw
    active: tuple[str, ...] = ()
    default: dict[str, Any] = field(default_factory=dict)
    needs_lora: Callable[[dict[str, Any]], bool] = lambda settings: False
    merges: Callable[[dict[str, Any]], bool] = lambda settings: False
    adds_at_end: bool = False


def _between(rng: random.Random, low: float, high: float) -> float:
    """Log-uniform."""
    return float(low * (high / low) ** rng.random())


def _sft(rng: random.Random) -> dict[str, Any]:
    return {}


def _antibody_alignment(rng: random.Random) -> dict[str, Any]:
    return {
        "radius": _between(rng, 0.02, 1),
        "sharpness": rng.choice([0.0, rng.uniform(0, 2), 5.0, 8.0]),
        "refusal": rng.choice([0.0, 0.05, rng.uniform(0, 2)]),
        "form": rng.choice(["cosine", "cosine", "kkt", "constant"]),
        "momentum": rng.choice([0.0, 0.5, 0.9, 0.99]),
        "cap": rng.choice([0.5, 10.0, 1e6]),
    }


def _antibody_tuning(rng: random.Random) -> dict[str, Any]:
    return {
        "temperature": _between(rng, 0.1, 10),
        "likelihood": rng.choice(["token", "sequence"]),
        "floor": rng.choice([None, rng.uniform(-2, 2), 1e3]),
    }


def _panacea_tuning(rng: random.Random) -> dict[str, Any]:
    return {"radius": _between(rng, 0.01, 2), "strength": rng.choice([0.0, 0.001, rng.uniform(0, 2)])}


def _antidote(rng: random.Random) -> dict[str, Any]:
    return {
        "mask_ratio": rng.choice([0.0, 0.01, 0.05, 0.1, 0.2, 0.5, rng.random(), 1.0]),
        "scope": rng.choice(["adapter", "delta", "weights"]),
        "ranking": rng.choice(["row", "global"]),
        "score": rng.choice(["wanda", "wanda", "magnitude"]),
    }


def _panacea(rng: random.Random) -> dict[str, Any]:
    return {"radius": _between(rng, 0.01, 5), "batch_size": rng.randint(1, 4)}


def _random_perturbation(rng: random.Random) -> dict[str, Any]:
    size = rng.choice(["std", "radius"])
    return {size: _between(rng, 0.001, 2), "seed": rng.randrange(1000)}


ROWS = {
    "sft": Row(references.sft, _sft),
    "antibody_alignment": Row(
        references.antibody_alignment, _antibody_alignment, ("lambda_t", "sharpness_norm", "extra_gradient_norm")
    ),
    "antibody_tuning": Row(references.antibody_tuning, _antibody_tuning, ("weight_max", "weight_effective_rows")),
    "panacea_tuning": Row(
        references.panacea_tuning, _panacea_tuning, ("epsilon_norm", "extra_gradient_norm"), adds_at_end=True
    ),
    "antidote": Row(
        references.antidote, _antidote, ("entries_pruned", "harmful_rows"),
        needs_lora=lambda settings: settings["scope"] != "weights",
        merges=lambda settings: settings["scope"] != "adapter",
    ),
    "panacea": Row(references.panacea, _panacea, ("radius", "harmful_rows")),
    "random_perturbation": Row(references.random_perturbation, _random_perturbation, ("norm",), {"radius": 1.0}),
}  # fmt: skip
