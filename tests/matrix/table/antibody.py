"""Antibody."""

import math
import random
from typing import Any

import torch
from torch import Tensor

from tests.matrix.row import Row, between
from tests.matrix.table.deep_alignment import recovering
from tests.matrix.worlds import Data, RowIds, Slow, pairs, refused


def antibody_alignment(slow: Slow, w: Tensor, data: Data, settings: dict[str, Any], memory: dict[str, Any]) -> Tensor:
    """G = a + λ_t·s + λ_r·r, with s = ∇h(w) − ∇h(w_ρ) and r taken at w_ρ."""
    a = slow.gradient(w, pairs(data.main))
    h = slow.gradient(w, pairs(data.harmful))
    attacked = w - settings["radius"] * h / math.sqrt(float((h * h).sum()))
    s = h - slow.gradient(attacked, pairs(data.harmful))
    behind = recovering(data, settings["depth"], 0.5) if settings["depth"] else refused(data.harmful, data.refusals)
    r = slow.gradient(attacked, behind)
    inner = float((a * s).sum())
    xi = settings["sharpness"]
    if settings["form"] == "constant":
        level = xi
    elif settings["form"] == "kkt":
        level = min(settings["cap"], max(0.0, xi - inner / float((s * s).sum())))
    else:
        raw = max(0.0, xi - inner / (float(a.norm()) * float(s.norm())))
        before = memory.get("level", raw)
        level = memory["level"] = settings["momentum"] * before + (1 - settings["momentum"]) * raw
    return a + level * s + settings["refusal"] * r


def antibody_tuning(slow: Slow, w: Tensor, data: Data, settings: dict[str, Any], memory: dict[str, Any]) -> Tensor:
    """Rows weighted by softmax(d/τ), d_i = refusal NLL − answer NLL, rows below the floor left out."""
    temperature = settings["temperature"]
    if temperature == "auto":
        if "temperature" not in memory:
            memory["temperature"] = settings["spread"] * _deviation(slow, w, data, settings)
        temperature = memory["temperature"]
    ratios = _ratios(slow, w, data.main, data, settings)
    kept = [settings["floor"] is None or ratio >= settings["floor"] for ratio in ratios]
    if not any(kept):
        return torch.zeros_like(w)
    top = max(ratio for ratio, keep in zip(ratios, kept, strict=True) if keep)
    powers = [math.exp((ratio - top) / temperature) if keep else 0.0 for ratio, keep in zip(ratios, kept, strict=True)]
    return slow.gradient(w, pairs(data.main), [power / sum(powers) for power in powers])


def _ratios(slow: Slow, w: Tensor, rows: list[RowIds], data: Data, settings: dict[str, Any]) -> list[float]:
    ratios = []
    for (prompt, answer), (_, refusal) in zip(pairs(rows), refused(rows, data.refusals), strict=True):
        c, q = float(slow.nll(w, prompt, answer)), float(slow.nll(w, prompt, refusal))
        per_token = settings["likelihood"] == "token"
        ratios.append(q / len(refusal) - c / len(answer) if per_token else q - c)
    return ratios


def _deviation(slow: Slow, w: Tensor, data: Data, settings: dict[str, Any]) -> float:
    """√E(d − E d)² over a row that is as likely a safe as a harmful one; the streams are smaller than the sample."""
    harmful = [*data.harmful, *(row for batch in data.later for row in batch)]
    sets = [_ratios(slow, w, rows, data, settings) for rows in ([*data.safe, *data.safer], harmful)]
    mean = sum(sum(ratios) / len(ratios) for ratios in sets) / 2
    return math.sqrt(sum(sum((ratio - mean) ** 2 for ratio in ratios) / len(ratios) for ratios in sets) / 2)


def _antibody_alignment(rng: random.Random) -> dict[str, Any]:
    drawn = {
        "radius": between(rng, 0.02, 1),
        "sharpness": rng.choice([0.0, rng.uniform(0, 2), 5.0, 8.0]),
        "refusal": rng.choice([0.0, 0.05, rng.uniform(0, 2)]),
        "form": rng.choice(["cosine", "cosine", "kkt", "constant"]),
        "momentum": rng.choice([0.0, 0.5, 0.9, 0.99]),
        "cap": rng.choice([0.5, 10.0, 1e6]),
    }
    return drawn | {"depth": {0.0: 0, 0.5: 2, 0.9: 0, 0.99: 100}[drawn["momentum"]]}


def _antibody_tuning(rng: random.Random) -> dict[str, Any]:
    return {
        "temperature": rng.choice([between(rng, 0.1, 10), "auto"]),
        "spread": between(rng, 0.1, 2),
        "likelihood": rng.choice(["token", "sequence"]),
        "floor": rng.choice([None, rng.uniform(-2, 2), 1e3]),
    }


def _measured(settings: dict[str, Any], steps: int, rows: int) -> tuple[int, int]:
    """Rows and refusals of both streams, of 32 and 24 rows."""
    if settings.get("temperature") != "auto":
        return 0, 0
    return 2 * sum(min(settings["rows"], stream) for stream in (32, 24)), 0


MEASURED = {"temperature": "auto", "likelihood": "sequence", "rows": 9}
"""Rows that two processes cannot share evenly."""

ROWS = {
    "antibody_alignment": Row(
        antibody_alignment, _antibody_alignment, ("lambda_t", "sharpness_norm", "extra_gradient_norm"),
        displaces=True, stress={"momentum": 0.7},
    ),
    "antibody_tuning": Row(
        antibody_tuning, _antibody_tuning, ("weight_max", "weight_effective_rows"), stress=MEASURED,
        extra_rows=_measured,
    ),
}  # fmt: skip
