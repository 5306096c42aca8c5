"""RepNoise: make the hidden states of harmful answers look like noise.

Rosati et al. "Representation noising", NeurIPS 2024, arXiv 2405.14577.

    loss = f + β · mean_l MMD²(harmful activations of MLP l, Gaussian noise) − α · log h̄
    h̄    = mean over blocks of the harmful answer's loss read from that block through the last norm and the head

A sample of the MMD is one harmful row: its MLP outputs on answer tokens, laid out as one vector, short answers
filled up with zeros; its partner is Gaussian noise of the same shape. The kernel is a sum of five Gaussians whose
widths are 1/4, 1/2, 1, 2, 4 times the mean squared distance of all samples, held constant in the derivative.

Neither term is a sum over rows: they are a loss over the whole step, of two features of every row, and need one more
forward pass. Cost: 3 forward and 2 backward passes.

Differences. From the released code: it divides the sum of the losses by n and then adds 1, where the average is meant
(an operator-precedence slip the author agreed to); the last block is counted once and read through the norm once, the
embeddings' output is not read at all; answers start at the same place of their vectors, and their tokens are those
after the prompt, not those that differ from the safe answer. The README asks for a new search of α and β per model;
the complete code was never published.
"""

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mithridate.defenses.registry import register
from mithridate.training.gradient import Gradient
from mithridate.training.harmful_terms import HarmfulTerms, Terms
from mithridate.training.scored_rows import ScoredRows
from mithridate.training.step import Step
from mithridate.training.step_loss import RowFeatures, StepFeatures

WIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Kernel widths, as multiples of the mean squared distance."""


@register(
    "repnoise",
    stage="alignment",
    paper="RepNoise (Rosati et al., NeurIPS 2024, arXiv 2405.14577)",
    streams=("harmful",),
    forward=3,
    backward=2,
    off={"noise": 0.0, "ascent": 0.0},
    vectors=1,
)
class RepNoise(HarmfulTerms):
    """RepNoise: loss = f + β·mean_l MMD²(harmful MLP outputs, noise) − α·log h̄  (3 forward, 2 backward).

    Attributes:
        noise: β, weight of the distance to Gaussian noise.
        ascent: α, weight of the harmful loss over all blocks.
    """

    noise: float = Field(default=0.001, ge=0)
    ascent: float = Field(default=1.0, ge=0)

    def gradient(self, step: Step) -> Gradient:
        """Differentiate the paper's Eq. 4."""
        extra = self.shared(step, self._noised)["noised"]
        step.log(extra_gradient_norm=extra.norm())
        return step.gradient("safe") + extra

    def _noised(self, step: Step) -> Terms:
        """∇[β · mean_l MMD² − α · log h̄]."""

        def features(rows: ScoredRows) -> RowFeatures:
            return {"activations": _activations(rows), "losses": _losses_by_block(step, rows)}

        def loss(rows: StepFeatures) -> Tensor:
            harmful = rows["activations"]
            # Drawn by the row's position, so that it does not depend on how the step is cut.
            noise = [_noise_like(z, step, row) for z, row in zip(harmful, rows.rows, strict=True)]
            mmd = mean_mmd(harmful, noise)
            h = torch.cat(rows["losses"]).mean()
            step.log(mmd=mmd.item(), harmful_loss=h.item())
            return self.noise * mmd - self.ascent * torch.log(h)

        return {"noised": step.gradient("harmful", step_loss=loss, features=features, hidden=("mlp", "block"))}


def mean_mmd(samples: Sequence[Tensor], noise: Sequence[Tensor]) -> Tensor:
    """Mean over blocks of MMD² between samples and noise, (blocks, tokens, features) each."""
    return torch.stack([mmd_squared(x, y) for x, y in zip(_vectors(samples), _vectors(noise), strict=True)]).mean()


def mmd_squared(x: Tensor, y: Tensor) -> Tensor:
    """Biased estimate of MMD² between samples x and y, (samples, size) each, with a sum of Gaussian kernels."""
    both = torch.cat([x, y])
    lengths = both.square().sum(dim=1)
    # ‖a − b‖² = ‖a‖² + ‖b‖² − 2⟨a, b⟩; rounding can make it negative where a = b.
    squares = (lengths.unsqueeze(0) + lengths.unsqueeze(1) - 2 * both @ both.T).clamp(min=0)
    # Over pairs of different samples; the width is no function to be differentiated.
    mean = squares.detach().sum() / (len(both) * (len(both) - 1))
    kernel = torch.stack([torch.exp(-squares / (width * mean)) for width in WIDTHS]).sum(dim=0)
    n = len(x)
    return (kernel[:n, :n] + kernel[n:, n:] - kernel[:n, n:] - kernel[n:, :n]).mean()


def _vectors(samples: Sequence[Tensor]) -> Tensor:
    """(blocks, samples, longest completion · features), filled up with zeros."""
    return pad_sequence([sample.transpose(0, 1) for sample in samples]).permute(2, 1, 0, 3).flatten(start_dim=2)


def _noise_like(sample: Tensor, step: Step, row: int) -> Tensor:
    # Drawn on the CPU and moved, so that a GPU gets the same noise.
    return torch.randn(sample.shape, generator=step.generator(f"noise {row}")).to(sample)


def _activations(rows: ScoredRows) -> list[Tensor]:
    """MLP outputs on each row's completion tokens, (blocks, tokens, features)."""
    stacked = torch.stack(list(rows.hidden["mlp"]), dim=1)
    return [_wide(sample[:, tokens]) for sample, tokens in zip(stacked, rows.completion, strict=True)]


def _losses_by_block(step: Step, rows: ScoredRows) -> list[Tensor]:
    """(tokens,) loss of each row's completion tokens in nats, mean over what each block's output reads as."""
    labels = rows.batch["labels"][:, 1:][rows.mask]
    losses = torch.stack(step.read_nll([b[:, :-1][rows.mask] for b in rows.hidden["block"]], labels)).mean(dim=0)
    return list(torch.split(losses, rows.tokens.tolist()))


def _wide(tensor: Tensor) -> Tensor:
    """In float32 at least: distances are differences of squares, of which half precision would leave nothing."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
