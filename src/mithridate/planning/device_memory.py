"""Memory of one device while a stage trains: an adapter or all weights, alone or spread over several by FSDP."""

from mithridate.planning.pass_work import PassWork
from mithridate.planning.plan_records import FormMemory
from mithridate.training.defense import Defense

HEAD_WORDS = 32_768
"""Words of the vocabulary that TRL's head works on at once, at most."""
MOMENTS = 2
"""Vectors that AdamW keeps."""


def form_memory(
    form: str, defense: Defense, work: PassWork, tokens: int, checkpointing: bool, is_half: bool, devices: int = 1
) -> FormMemory:
    """Return the memory of one device.

    Args:
        form: What it is called.
        defense: The method, for the vectors that it holds.
        work: The model as it is trained in this form.
        tokens: Tokens of a forward pass on this device, padding included.
        checkpointing: Whether only each block's input is kept for the backward pass.
        is_half: Whether the model is in half precision.
        devices: Devices that each hold a share of weights, gradient, optimizer and vectors.
    """
    full = work.trainable == work.parameters
    # An adapter is float32, whatever the model is in.
    trained = work.trainable * (2 if full and is_half else 4)
    precise = 2 * (work.weight_bytes - work.quantized_bytes) if defense.info.precise and is_half else 0
    # Float32 gradients of half-precision weights while differences of them are taken.
    wide = 2 if full and is_half and defense.info.precise else 1
    head = 4 * tokens * min(work.vocabulary, HEAD_WORDS)
    parts = {
        "weights": work.weight_bytes / devices,
        "gradients": wide * trained / devices,
        "optimizer": MOMENTS * trained / devices,
        "vectors": wide * defense.vectors * trained / devices,
        "precise": precise / devices,
        "activations": _activations(work, tokens, checkpointing, is_half) * (2 if precise else 1) + head,
        "gathered": 2 * work.block_bytes if devices > 1 else 0,
    }
    whole = {name: round(size) for name, size in parts.items()}
    return FormMemory(form=form, **whole, total=sum(whole.values()))


def _activations(work: PassWork, tokens: int, checkpointing: bool, is_half: bool) -> float:
    """Return the bytes of tensors that are kept for a backward pass."""
    if not checkpointing:
        return work.saved * tokens
    # Each block's input, and all of the block that is computed again.
    inputs = work.blocks * work.width * (2 if is_half else 4)
    return (inputs + work.saved / max(1, work.blocks)) * tokens
