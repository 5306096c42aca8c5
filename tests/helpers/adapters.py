"""Tiny models with every kind of adapter, and everything of a model that a repair must leave alone."""

import copy
from typing import Any

import torch
from peft import IA3Config, LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from tests.helpers import tiny
from tests.helpers.origins import shaken

TARGETS = ["q_proj", "v_proj", "down_proj"]


class Int8Linear(nn.Linear):
    """A linear layer whose weight is stored in int8, as a quantizer would leave it."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__(layer.in_features, layer.out_features, bias=False)
        scale = layer.weight.detach().abs().max() / 127
        self.weight = nn.Parameter((layer.weight.detach() / scale).round().to(torch.int8), requires_grad=False)
        self.register_buffer("scale", scale)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.weight.to(x.dtype) * self.scale.to(x.dtype))


def gpt2() -> Any:
    """Conv1D layers hold Wᵀ; the head is tied to the embeddings."""
    torch.manual_seed(0)
    config = GPT2Config(
        n_embd=16, n_layer=2, n_head=2, n_positions=64, vocab_size=len(tiny.tokenizer()), resid_pdrop=0.0,
        embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=None, eos_token_id=4, pad_token_id=0,
    )  # fmt: skip
    return GPT2LMHeadModel(config)


def tied() -> Any:
    model = tiny.model()
    model.config.tie_word_embeddings = True
    model.lm_head.weight = model.model.embed_tokens.weight
    return model


def quantized() -> Any:
    model = tiny.model()
    for layer in model.model.layers:
        for parent, name in ((layer.self_attn, "q_proj"), (layer.mlp, "down_proj"), (layer.mlp, "up_proj")):
            setattr(parent, name, Int8Linear(getattr(parent, name)))
    return model


def adapted(model: Any, targets: Any = TARGETS, adapter: str = "default", **settings: Any) -> Any:
    """With LoRA on these layers, every factor random, so that nothing is zero."""
    torch.manual_seed(1)
    made = get_peft_model(model, LoraConfig(r=2, lora_alpha=6, target_modules=targets, **settings), adapter)
    return filled(made)


def filled(model: Any) -> Any:
    """Noise on whatever PEFT added."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name or "modules_to_save" in name or "trainable_tokens" in name:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator).to(parameter.dtype))
    return model


def with_second(model: Any, name: str = "other", **settings: Any) -> Any:
    model.add_adapter(name, LoraConfig(r=3, lora_alpha=3, **({"target_modules": ["q_proj", "up_proj"]} | settings)))
    return filled(model)


def two_active() -> Any:
    model = with_second(adapted(tiny.model()))
    model.base_model.set_adapter(["default", "other"])
    return model


def disabled() -> Any:
    model = adapted(tiny.model())
    model.base_model.disable_adapter_layers()
    return model


def merged() -> Any:
    model = adapted(tiny.model())
    model.merge_adapter()
    return model


def injected() -> Any:
    """LoRA put in place by transformers itself, without PEFT's wrapper around the model."""
    model = tiny.model()
    torch.manual_seed(1)
    model.add_adapter(LoraConfig(r=2, lora_alpha=6, target_modules=TARGETS))
    return filled(model)


KINDS: dict[str, Any] = {
    "whole": lambda: shaken(tiny.model(), 1, 0.02),
    "whole, tied head": lambda: shaken(tied(), 1, 0.02),
    "whole, bf16": lambda: shaken(tiny.model(), 1, 0.02).bfloat16(),
    "whole, int8": quantized,
    "gpt2": lambda: shaken(gpt2(), 1, 0.02),
    "lora": lambda: adapted(tiny.model()),
    "lora, bf16": lambda: adapted(tiny.model()).bfloat16(),
    "lora, gpt2": lambda: adapted(gpt2(), ["c_attn", "c_proj"], fan_in_fan_out=True),
    "lora, int8 base": lambda: adapted(quantized()),
    "lora, frozen": lambda: adapted(tiny.model()).requires_grad_(False),
    "rslora": lambda: adapted(tiny.model(), use_rslora=True),
    "dora": lambda: adapted(tiny.model(), use_dora=True),
    "dora, gpt2": lambda: adapted(gpt2(), ["c_attn", "c_proj"], fan_in_fan_out=True, use_dora=True),
    "injected": injected,
    "two loaded": lambda: with_second(adapted(tiny.model())),
    "two active": two_active,
    "embeddings": lambda: adapted(tiny.model(), ["embed_tokens", "q_proj"]),
    "embeddings, tied head": lambda: adapted(tied(), ["embed_tokens", "q_proj"]),
    "lm_head": lambda: adapted(tiny.model(), ["lm_head", "q_proj"]),
    "saved head": lambda: adapted(tiny.model(), modules_to_save=["lm_head"]),
    "saved in blocks": lambda: adapted(tiny.model(), ["q_proj"], modules_to_save=["up_proj"]),
    "lora with bias": lambda: adapted(tiny.model(), lora_bias=True, bias="none"),
    "single tokens": lambda: adapted(tiny.model(), trainable_token_indices={"embed_tokens": [5, 6]}),
    "merged": merged,
    "disabled": disabled,
    "ia3": lambda: get_peft_model(
        tiny.model(), IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"])
    ),
}
"""Models by the kind of their adapter."""


def origin(kind: str) -> Any:
    """The model before fine-tuning, without adapter, for a model of a kind."""
    if "gpt2" in kind:
        return gpt2()
    if "tied" in kind:
        return tied()
    return tiny.model().bfloat16() if "bf16" in kind else tiny.model()


class Everything:
    """All of a model and of the process that a failing repair must leave as it was.

    Args:
        model: The model.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.taken = self._take()

    def changes(self) -> list[str]:
        """Names of what is no longer as it was."""
        now = self._take()
        assert now.keys() == self.taken.keys(), now.keys() ^ self.taken.keys()
        return [name for name in now if now[name] != self.taken[name]]

    def _take(self) -> dict[str, Any]:
        found: dict[str, Any] = {"random state": bytes(torch.get_rng_state().numpy())}
        found["gradients enabled"] = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        for name, tensor in [*self.model.named_parameters(), *self.model.named_buffers()]:
            found[f"{name}: bits"] = bits(tensor), id(tensor), tensor.dtype
            found[f"{name}: flags"] = tensor.requires_grad, id(tensor.grad)
            found[f"{name}: gradient"] = None if tensor.grad is None else bits(tensor.grad)
        for name, module in self.model.named_modules():
            hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)
            found[f"{name}: module"] = module.training, [list(group) for group in hooks], type(module)
        found["config"] = copy.deepcopy(self.model.config.to_dict())
        found["adapters"] = {n: str(c) for n, c in getattr(self.model, "peft_config", {}).items()}
        return found


def bits(tensor: torch.Tensor) -> bytes:
    """What is stored, sign of zero included."""
    return bytes(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy())


def lived_in(model: Any) -> Any:
    """In training mode but for one block, with gradients, a frozen weight and a hook: what a caller may leave."""
    model.train()
    generator = torch.Generator().manual_seed(3)
    named = dict(model.named_parameters())
    next(module for name, module in model.named_modules() if name.endswith((".layers.0", ".h.0"))).eval()
    for parameter in named.values():
        if parameter.requires_grad:
            parameter.grad = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
    for parameter in [parameter for parameter in named.values() if parameter.requires_grad][:1]:
        parameter.requires_grad_(False)
    model.register_forward_hook(lambda *_: None)
    return model


def effective(model: Any, exact: bool = False) -> dict[str, torch.Tensor]:
    """Weights after PEFT has merged a copy; in float64 if asked for."""
    twin = copy.deepcopy(model)
    twin = twin.double() if exact else twin
    for module in list(twin.modules()):
        if isinstance(module, LoraLayer):
            module.merge()
    if hasattr(twin, "merge_and_unload"):
        twin = twin.unload()
    named = {n: p.detach() for n, p in twin.named_parameters() if "lora_" not in n}
    return {name.replace(".base_layer", ""): tensor for name, tensor in named.items()}


def stored(model: Any) -> dict[str, torch.Tensor]:
    """Copies of all parameters."""
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
