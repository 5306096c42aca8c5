"""The parts of a causal language model, found by structure rather than by class."""

import re
from typing import Any, Literal, NamedTuple, get_args

from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from mithridate.errors import ModelError, UsageError

# Llama, Mistral, Qwen, Gemma: layers; GPT-2: h; MPT: blocks; others: layer.
_LAYER = re.compile(r"\.(?:layers|h|blocks|layer)\.(\d+)\.")

DecoderPart = Literal["attention", "mlp", "block", "final"]
"""Whose output: every attention block's, every MLP's, every decoder block's, or the last norm's."""
DECODER_PARTS: tuple[DecoderPart, ...] = get_args(DecoderPart)


class Decoder(NamedTuple):
    """The parts of a decoder, in order.

    Attributes:
        blocks: Decoder blocks.
        attention: The attention of each block.
        mlp: The MLP of each block, or its last linear layer where it has no module of its own (OPT).
        norm: The norm behind the last block; None where there is none.
        head: The output head.
    """

    blocks: list[nn.Module]
    attention: list[nn.Module]
    mlp: list[nn.Module]
    norm: nn.Module | None
    head: nn.Module

    def part(self, part: DecoderPart) -> list[nn.Module]:
        """Return the modules whose outputs are meant.

        Raises:
            UsageError: If there is no such part.
            ModelError: If the model has no norm behind its last block.
        """
        if part not in DECODER_PARTS:
            raise UsageError(f"a model has no part '{part}'; its parts are {', '.join(DECODER_PARTS)}")
        if part == "final":
            if self.norm is None:
                raise ModelError("the model has no norm behind its last block, whose output the defense needs")
            return [self.norm]
        return {"attention": self.attention, "mlp": self.mlp, "block": self.blocks}[part]

    @property
    def words(self) -> int:
        """Size of the vocabulary."""
        # A quantized weight has another shape than the layer.
        head: Any = self.head
        return int(head.out_features if hasattr(head, "out_features") else head.weight.shape[0])

    def read(self, hidden: Tensor) -> Tensor:
        """Return the logits of a hidden state, through last norm and output head: (…, features) → (…, vocabulary)."""
        logits: Tensor = self.head(self.part("final")[0](hidden))
        return logits


def decoder_of(model: nn.Module) -> Decoder:
    """Find the decoder's parts.

    Raises:
        ModelError: If the model has no list of blocks that each hold an attention block and an MLP.
    """
    # PEFT's wrappers have names of their own, which no pattern below expects.
    causal: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    for name, parent in causal.named_modules():
        for child, blocks in parent.named_children():
            if isinstance(blocks, nn.ModuleList) and len(blocks) and layer_of(f"{name}.{child}.0.") is not None:
                return _decoder(causal, parent, list(blocks))
    raise ModelError(f"{type(causal).__name__} has no list of decoder blocks, so the defense cannot find its layers")


def _decoder(causal: Any, parent: nn.Module, blocks: list[nn.Module]) -> Decoder:
    # A norm is a leaf with a vector as weight; an embedding, the other leaf beside the blocks, has a matrix.
    norms = [m for m in parent.children() if not list(m.children()) and _is_vector(getattr(m, "weight", None))]
    return Decoder(
        blocks=blocks,
        attention=[_attention(block) for block in blocks],
        mlp=[_mlp(block) for block in blocks],
        # With several it is not known which one stands behind the blocks; the part is refused when it is asked for.
        norm=norms[0] if len(norms) == 1 else None,
        head=causal.get_output_embeddings(),
    )


def _attention(block: nn.Module) -> nn.Module:
    found = [module for name, module in block.named_children() if "attention" in _spelled(name) and _linears(module)]
    if len(found) != 1:
        raise ModelError(f"{type(block).__name__} holds {len(found)} attention blocks, expected exactly one")
    return found[0]


def _mlp(block: nn.Module) -> nn.Module:
    attention = _attention(block)
    others = [module for module in block.children() if module is not attention and _linears(module)]
    if not others:
        raise ModelError(f"{type(block).__name__} has no linear layer outside its attention")
    # The last one: OPT has two linear layers in place of an MLP, and the second one's output is what joins the stream.
    return others[-1]


def _spelled(name: str) -> str:
    # self_attn and attention alike, but no input_attention_norm.
    return name.replace("attention", "attn").replace("attn", "attention") if "norm" not in name else ""


def _linears(module: nn.Module) -> list[nn.Module]:
    return [m for m in module.modules() if isinstance(m, (nn.Linear, Conv1D, LoraLayer))]


def _is_vector(weight: Any) -> bool:
    return isinstance(weight, Tensor) and weight.dim() == 1


def learned_positions(model: nn.Module) -> int | None:
    """Return how many positions a model has embeddings for (GPT-2, OPT); None if it computes them (rotary ones)."""
    causal: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    positions: int | None = getattr(causal.config.get_text_config(), "max_position_embeddings", None)
    if positions is None:
        return None
    tables = [m for m in causal.modules() if isinstance(m, nn.Embedding) and m is not causal.get_input_embeddings()]
    padding = range(positions, positions + 3)  # OPT's table has two rows more
    return positions if any(table.num_embeddings in padding for table in tables) else None


def layer_of(name: str) -> str | None:
    """Return the number of the decoder block in a parameter's name."""
    match = _LAYER.search("." + name)
    return match.group(1) if match else None
