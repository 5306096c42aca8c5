"""Every defense once more, written from the papers' formulas over flat float64 vectors, with plain loops."""

import math
from typing import Any

import torch
from torch import Tensor

from tests.helpers.slow_llama import BLOCK_LINEARS
from tests.matrix.worlds import Data, Row, Slow, World, pairs, refused

Memory = dict[str, Any]


def sft(slow: Slow, w: Tensor, data: Data, settings: dict[str, Any], memory: Memory) -> Tensor:
    """∇f(w)."""
    return slow.gradient(w, pairs(data.main))


def antibody_alignment(slow: Slow, w: Tensor, data: Data, settings: dict[str, Any], memory: Memory) -> Tensor:
    """G = a + λ_t·s + λ_r·r, with s = ∇h(w) − ∇h(w_ρ) and r taken at w_ρ."""
    a = slow.gradient(w, pairs(data.main))
    h = slow.gradient(w, pairs(data.harmful))
    attacked = w - settings["radius"] * h / math.sqrt(float((h * h).sum()))
    s = h - slow.gradient(attacked, pairs(data.harmful))
    r = slow.gradient(attacked, refused(data.harmful, data.refusals))
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


def antibody_tuning(slow: Slow, w: Tensor, data: Data, settings: dict[str, Any], memory: Memory) -> Tensor:
    """Rows weighted by softmax(d/τ), d_i = refusal NLL − answer NLL, rows below the floor left out."""
    ratios = []
    for (prompt, answer), (_, refusal) in zip(pairs(data.main), refused(data.main, data.refusals), strict=True):
        c, q = float(slow.nll(w, prompt, answer)), float(slow.nll(w, prompt, refusal))
        per_token = settings["likelihood"] == "token"
        ratios.append(q / len(refusal) - c / len(answer) if per_token else q - c)
    kept = [settings["floor"] is None or ratio >= settings["floor"] for ratio in ratios]
    if not any(kept):
        return torch.zeros_like(w)
    top = max(ratio for ratio, keep in zip(ratios, kept, strict=True) if keep)
    powers = [
        math.exp((ratio - top) / settings["temperature"]) if keep else 0.0
        for ratio, keep in zip(ratios, kept, strict=True)
    ]
    return slow.gradient(w, pairs(data.main), [power / sum(powers) for power in powers])


def panacea_tuning(slow: Slow, w: Tensor, data: Data, settings: dict[str, Any], memory: Memory) -> Tensor:
    """G = ∇f(w) − λ·[∇h(w+ε) − ∇h(w)]; ε of the last step is added at the very end."""
    h = slow.gradient(w, pairs(data.harmful))
    epsilon = memory["last"] = settings["radius"] * h / h.norm()
    push = slow.gradient(w + epsilon, pairs(data.harmful)) - h
    return slow.gradient(w, pairs(data.main)) - settings["strength"] * push


def panacea(world: World, harmful: list[Row], settings: dict[str, Any]) -> dict[str, Tensor]:
    """W + ρ·∇h(w)/‖∇h(w)‖, h over all harmful rows."""
    slow = Slow(world)
    h = slow.gradient(slow.start, pairs(harmful))
    return slow._state(slow.start + settings["radius"] * h / h.norm())


def random_perturbation(world: World, harmful: list[Row], settings: dict[str, Any]) -> dict[str, Tensor]:
    """W + N(0, std²), or w + ρ·n/‖n‖; the noise is drawn in float32 in the order of the weights."""
    slow = Slow(world)
    generator = torch.Generator().manual_seed(settings["seed"])
    drawn = [torch.randn(world.state[n].shape, generator=generator).reshape(-1) for n in world.names]
    noise = torch.cat(drawn).double()
    if "std" in settings:
        return slow._state(slow.start + settings["std"] * noise)
    return slow._state(slow.start + settings["radius"] * noise / math.sqrt(float((noise * noise).sum())))


def antidote(world: World, harmful: list[Row], settings: dict[str, Any]) -> dict[str, Tensor]:
    """Zero the top α of |w_ij|·‖x_j‖, by output row or over all entries."""
    world.slow.inputs = {}
    for row in harmful:
        world.slow.logits(world.state, [*row.prompt, *row.answer])
    seen, world.slow.inputs = world.slow.inputs, None
    matrices = _prunable(world, settings["scope"])
    scores = {}
    for name, (matrix, feeding) in matrices.items():
        norms = [
            math.sqrt(sum(float((x[:, j] ** 2).sum()) for x in seen[feeding]) / len(harmful))
            for j in range(matrix.shape[1])
        ]
        plain = settings["score"] == "magnitude"
        scores[name] = [
            [abs(float(matrix[i, j])) * (1.0 if plain else norms[j]) for j in range(matrix.shape[1])]
            for i in range(matrix.shape[0])
        ]
    doomed = _top(scores, settings["mask_ratio"], settings["ranking"])
    pruned = {name: matrix.clone() for name, (matrix, _) in matrices.items()}
    for name, i, j in doomed:
        pruned[name][i, j] = 0.0
    return _written(world, settings["scope"], pruned)


def _delta(world: World, name: str) -> Tensor:
    first, second = world.state[f"{name}.lora_A.weight"], world.state[f"{name}.lora_B.weight"]
    return world.slow.scale * second @ first


def _prunable(world: World, scope: str) -> dict[str, tuple[Tensor, str]]:
    """Matrices by name, each with the name of the map whose input is its x."""
    linears = [f"model.layers.{i}.{kind}" for i in range(world.slow.layers) for kind in BLOCK_LINEARS]
    tuned = [name for name in linears if f"{name}.lora_A.weight" in world.state]
    if scope == "adapter":
        factors = [f"{name}.{factor}" for name in tuned for factor in ("lora_A", "lora_B")]
        return {name: (world.state[f"{name}.weight"], name) for name in factors}
    if scope == "delta":
        return {name: (_delta(world, name), name) for name in tuned}
    whole = {name: world.state[f"{name}.weight"] for name in linears}
    whole |= {name: whole[name] + _delta(world, name) for name in tuned}
    return {name: (matrix, name) for name, matrix in whole.items()}


def _top(scores: dict[str, Any], ratio: float, ranking: str) -> list[tuple[str, int, int]]:
    """Places of the highest scores, n − int(n·(1 − ratio)) in each group of n."""
    places = [(s, name, i, j) for name, rows in scores.items() for i, row in enumerate(rows) for j, s in enumerate(row)]
    groups: dict[Any, list[tuple[float, str, int, int]]] = {}
    for place in places:
        groups.setdefault(place[1:3] if ranking == "row" else "all", []).append(place)
    doomed = []
    for group in groups.values():
        number = len(group) - int(len(group) * (1 - ratio))
        doomed += [place[1:] for place in sorted(group, key=lambda place: -place[0])[:number]]
    return doomed


def _written(world: World, scope: str, pruned: dict[str, Tensor]) -> dict[str, Tensor]:
    state = dict(world.state)
    for name, matrix in pruned.items():
        state[f"{name}.weight"] = state[f"{name}.weight"] + matrix if scope == "delta" else matrix
        if scope != "adapter" and f"{name}.lora_B.weight" in state:
            state[f"{name}.lora_B.weight"] = torch.zeros_like(state[f"{name}.lora_B.weight"])
    return state
