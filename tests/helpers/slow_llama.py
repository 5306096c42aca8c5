"""A Llama written out in plain float64, one row at a time, without padding: slow and plainly right.

It shares no code with the package or with transformers; it reads a state dict and nothing else. LoRA is spelled
out as x·Wᵀ + scale·(x·Aᵀ)·Bᵀ.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

BLOCK_LINEARS = (
    "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
    "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj",
)  # fmt: skip


@dataclass
class SlowLlama:
    """Shape of the network; weights are passed to every call.

    Attributes:
        layers: Number of blocks.
        heads: Query heads.
        kv_heads: Key and value heads.
        scale: LoRA's alpha / rank.
        inputs: Where given, filled with the inputs of every linear map, by name: (tokens, features) per row.
        outputs: Outputs of the last row that was run, differentiable, each (tokens, features): ``attention.0``,
            ``mlp.0``, ``block.0`` and so on, ``final`` behind the last norm.
        shifts: Added to these outputs, by the same names, before they are used.
    """

    layers: int
    heads: int
    kv_heads: int
    scale: float = 1.0
    inputs: dict[str, list[Tensor]] | None = field(default=None)
    outputs: dict[str, Tensor] = field(default_factory=dict)
    shifts: dict[str, Tensor] = field(default_factory=dict)

    def logits(self, weights: dict[str, Tensor], ids: Sequence[int]) -> Tensor:
        """(tokens, vocabulary) for one row."""
        x = weights["model.embed_tokens.weight"][list(ids)]
        for layer in range(self.layers):
            prefix = f"model.layers.{layer}."
            attended = self._attention(weights, prefix, _norm(x, weights[prefix + "input_layernorm.weight"]))
            x = x + self._out(f"attention.{layer}", attended)
            y = _norm(x, weights[prefix + "post_attention_layernorm.weight"])
            gate = self._linear(weights, prefix + "mlp.gate_proj", y)
            up = self._linear(weights, prefix + "mlp.up_proj", y)
            x = x + self._out(
                f"mlp.{layer}", self._linear(weights, prefix + "mlp.down_proj", gate / (1 + torch.exp(-gate)) * up)
            )
            x = self._out(f"block.{layer}", x)
        return self._out("final", _norm(x, weights["model.norm.weight"])) @ weights["lm_head.weight"].T

    def read(self, weights: dict[str, Tensor], hidden: Tensor) -> Tensor:
        """(tokens, vocabulary) of a hidden state read through the last norm and the output head."""
        return _norm(hidden, weights["model.norm.weight"]) @ weights["lm_head.weight"].T

    def nll(self, weights: dict[str, Tensor], prompt: Sequence[int], answer: Sequence[int]) -> Tensor:
        """−log π(answer | prompt), summed over the answer's tokens."""
        ids = [*prompt, *answer]
        logits = self.logits(weights, ids)
        total = torch.zeros((), dtype=torch.float64)
        for position, token in enumerate(answer, start=len(prompt)):
            total = total - torch.log_softmax(logits[position - 1], dim=0)[token]
        return total

    def _attention(self, weights: dict[str, Tensor], prefix: str, x: Tensor) -> Tensor:
        tokens = x.shape[0]
        q = self._linear(weights, prefix + "self_attn.q_proj", x).view(tokens, self.heads, -1)
        k = self._linear(weights, prefix + "self_attn.k_proj", x).view(tokens, self.kv_heads, -1)
        v = self._linear(weights, prefix + "self_attn.v_proj", x).view(tokens, self.kv_heads, -1)
        mixed = []
        for head in range(self.heads):
            shared = head * self.kv_heads // self.heads
            query, key = _rotate(q[:, head]), _rotate(k[:, shared])
            scores = query @ key.T / math.sqrt(query.shape[1])
            future = torch.triu(torch.ones(tokens, tokens, dtype=torch.bool), diagonal=1)
            mixed.append(torch.softmax(scores.masked_fill(future, -math.inf), dim=1) @ v[:, shared])
        return self._linear(weights, prefix + "self_attn.o_proj", torch.cat(mixed, dim=1))

    def _linear(self, weights: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
        self._record(name, x)
        y = x @ weights[name + ".weight"].T
        if name + ".lora_A.weight" in weights:
            low = x @ weights[name + ".lora_A.weight"].T
            self._record(name + ".lora_A", x)
            self._record(name + ".lora_B", low)
            y = y + self.scale * (low @ weights[name + ".lora_B.weight"].T)
        return y

    def _out(self, name: str, x: Tensor) -> Tensor:
        x = x + self.shifts[name] if name in self.shifts else x
        self.outputs[name] = x
        return x

    def _record(self, name: str, x: Tensor) -> None:
        if self.inputs is not None:
            self.inputs.setdefault(name, []).append(x.detach())


def _norm(x: Tensor, weight: Tensor) -> Tensor:
    """RMSNorm with ε = 1e-6."""
    return weight * x / torch.sqrt((x * x).mean(dim=1, keepdim=True) + 1e-6)


def _rotate(x: Tensor) -> Tensor:
    """Rotary positions, θ = 10000, the two halves of a head paired."""
    tokens, width = x.shape
    first, second = x[:, : width // 2], x[:, width // 2 :]
    pair = torch.arange(width // 2, dtype=torch.float64)
    angle = torch.arange(tokens, dtype=torch.float64).unsqueeze(1) * 10000.0 ** (-2 * pair / width)
    return torch.cat([first * angle.cos() - second * angle.sin(), second * angle.cos() + first * angle.sin()], dim=1)


def merged(state: dict[str, Tensor], scale: float) -> dict[str, Tensor]:
    """The same net without an adapter: W + scale·B·A."""
    whole = {name: tensor for name, tensor in state.items() if ".lora_" not in name}
    for name in [name.removesuffix(".lora_A.weight") for name in state if name.endswith(".lora_A.weight")]:
        delta = state[f"{name}.lora_B.weight"] @ state[f"{name}.lora_A.weight"]
        whole[f"{name}.weight"] = whole[f"{name}.weight"] + scale * delta
    return whole


def plain_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A (PEFT) state dict in float64 under the names of the plain model; factors as ``….lora_A.weight``."""
    found = {}
    for name, tensor in state.items():
        short = name.removeprefix("base_model.model.").replace(".base_layer.", ".")
        found[short.replace(".default.", ".")] = tensor.detach().double().clone()
    return found
