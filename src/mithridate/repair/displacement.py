"""A displacement of finished weights whose scale can be changed later."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from mithridate.errors import CheckpointError, DefenseError, ModelError
from mithridate.models.stored_weights import StoredWeights
from mithridate.models.tensor_files import EVERY_ROW
from mithridate.models.undo import overwrite, undone, undone_on_failure
from mithridate.repair.layer_changes import layer_profile
from mithridate.repair.repaired import DoseCurve, Repaired
from mithridate.repair.rewriting import Rewrite
from mithridate.repair.tally import Tally
from mithridate.training.gradient import Gradient


class Displacement:
    """w = base + scale·ε, with base and ε kept.

    Args:
        names: Names of the displaced parameters.
        base: Their values before.
        epsilon: ε, one tensor per parameter.
        scale: Present scale.
    """

    def __init__(self, names: list[str], base: list[Tensor], epsilon: Gradient, scale: float = 1.0) -> None:
        self.names = names
        self.base = base
        self.epsilon = epsilon
        self.scale = scale

    def apply(self, model: nn.Module, scale: float) -> Tally:
        """Set the model's weights to base + scale·ε, rounded once; scale 0 restores the base bit for bit.

        Args:
            model: The model it was made for.
            scale: The new scale.

        Returns:
            The difference from the base.

        Raises:
            ModelError: If the model lacks one of the displaced weights, or has it in another shape.
            DefenseError: If a weight would not be finite. Either way the model is left as it was.
        """
        tally = self._write(model, scale)
        self.scale = scale
        return tally

    @contextmanager
    def dosed(self, model: nn.Module, scale: float) -> Iterator[None]:
        """Set the scale inside the block only, to the very bits that ``apply`` would write."""
        with undone():
            self._write(model, scale)
            yield

    def _write(self, model: nn.Module, scale: float) -> Tally:
        # All names first, so that a wrong model is refused before a single weight is written.
        found = dict(model.named_parameters())
        for name, base in zip(self.names, self.base, strict=True):
            if name not in found or found[name].shape != base.shape:
                raise ModelError(
                    f"the displacement was made for another model: '{name}' is not one of its weights, or has "
                    "another shape; give the model that was displaced"
                )
        tally = Tally()
        with undone_on_failure():
            for name, base, epsilon in zip(self.names, self.base, self.epsilon.tensors, strict=True):
                base = base.to(found[name].device)
                # Rounded once.
                stored = displaced(base, scale, epsilon.to(base.device)).to(found[name].dtype)
                tally.add(name, base, stored)
                overwrite(found[name], stored)
        return tally

    def save(self, path: Path) -> None:
        """Write base, ε and scale as one safetensors file."""
        tensors = {f"base/{name}": tensor for name, tensor in zip(self.names, self.base, strict=True)}
        tensors |= {f"epsilon/{n}": t for n, t in zip(self.names, self.epsilon.tensors, strict=True)}
        # Numbers in a safetensors header are texts; repr() keeps every digit of a float.
        save_file({n: t.detach().cpu().contiguous() for n, t in tensors.items()}, path, {"scale": repr(self.scale)})

    @classmethod
    def load(cls, path: Path) -> "Displacement":
        """Read what ``save`` wrote.

        Raises:
            CheckpointError: If the file is missing or damaged.
        """
        try:
            with safe_open(path, framework="pt") as file:
                # The file lists tensors in an order of its own, so base and ε are paired by name.
                keys: list[str] = list(file.keys())
                names = [key.removeprefix("base/") for key in keys if key.startswith("base/")]
                base = [file.get_tensor(f"base/{name}") for name in names]
                epsilon = Gradient([file.get_tensor(f"epsilon/{name}") for name in names])
                scale = float((file.metadata() or {})["scale"])
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise CheckpointError(f"{path} is not a complete displacement ({error}); repair the model again") from error
        return cls(names, base, epsilon, scale)


def displace(
    model: nn.Module,
    displacement: Displacement,
    scale: float,
    intended: float,
    activity: dict[str, float],
    curve: DoseCurve | None = None,
) -> Repaired:
    """Apply a displacement for the first time and return what it changed.

    Args:
        model: The model to displace.
        displacement: Base and ε, not applied yet.
        scale: The scale to apply.
        intended: Norm of scale·ε, before weights round it.
        activity: Figures that prove that the defense acted.
        curve: How the scale was found, if it was searched for.

    Raises:
        DefenseError: If the weights' precision leaves nothing of it.
    """
    tally = displacement.apply(model, scale)
    _require_effect(intended, tally)
    return Repaired(
        changed=tally.changed,
        distance=tally.distance,
        activity=activity | {"intended_distance": intended},
        dose_curve=curve,
        layer_profile=layer_profile(model, dict(zip(displacement.names, displacement.base, strict=True))),
    ).with_displacement(displacement)


def displace_stored(
    weights: StoredWeights,
    names: Sequence[str],
    epsilon: Callable[[str, slice], Tensor],
    scale: float,
    intended: float,
    activity: dict[str, float],
) -> Repaired:
    """Displace weights of a model on disk; ε is not kept, for it is as large as the model.

    Args:
        weights: The weights, base of the displacement.
        names: Those that move.
        epsilon: ε of some rows of a weight; it is called in other threads.
        scale: The scale to apply.
        intended: Norm of scale·ε, before weights round it.
        activity: Figures that prove that the defense acted.

    Raises:
        DefenseError: If the weights' precision leaves nothing of it.
    """
    rewrite = Rewrite(weights)
    rewrite.put_rows(names, lambda _, base, part: displaced(base, scale, part), [_Epsilon(epsilon)])
    _require_effect(intended, rewrite.tally)
    return rewrite.repaired(activity | {"intended_distance": intended})


class _Epsilon:
    """ε as a partner of the weights.

    Args:
        part: ε of some rows of a weight.
    """

    def __init__(self, part: Callable[[str, slice], Tensor]) -> None:
        self._part = part

    def held(self, name: str, rows: slice = EVERY_ROW) -> Tensor:
        """Return some rows."""
        return self._part(name, rows)

    def read(self, name: str, *, rows: slice = EVERY_ROW) -> Tensor:
        """Return some rows in float64."""
        return self.held(name, rows).double()


def displaced(base: Tensor, scale: float, epsilon: Tensor) -> Tensor:
    """Return base + scale·ε, float64; at scale 0 the base itself."""
    # Scale 0 must return the base's own bits, without an addition.
    return (base + scale * epsilon.double()) if scale else base


def _require_effect(intended: float, tally: Tally) -> None:
    if intended and not tally.changed:
        raise DefenseError(
            f"a displacement of norm {intended:.4g} changes no weight at the weights' precision; raise the strength, "
            "or load the model in float32"
        )


def wide(vector: Gradient) -> Gradient:
    """Return the same vector in float32 where it is of lower precision, so that scaling it rounds nothing away."""
    # Doubles stay doubles: a float64 model loses nothing either.
    return Gradient([t.to(torch.promote_types(t.dtype, torch.float32)) for t in vector.tensors])
