"""RepNoise: make the hidden states of harmful answers look like noise.

Rosati et al. "Representation noising", NeurIPS 2024, arXiv 2405.14577.

    loss = f + β · mean_l MMD²(harmful activations of MLP l, Gaussian noise) − α · log h̄
    h̄    = mean over blocks of the harmful answer's loss read from that block through the last norm and the head

A sample of the MMD is one harmful row: its MLP outputs on answer tokens, laid out as one vector, short answers
filled up with zeros; its partner is Gaussian noise of the same shape. The kernel is a sum of five Gaussians whose
widths are 1/4, 1/2, 1, 2, 4 times the mean squared distance of all samples, held constant in the derivative.

Both terms are not sums over rows, so a first pass without gradient scores the whole batch, and a second pass takes
the gradient: the step stays the same however it is cut. Cost: 3 forward and 2 backward passes.

Differences. From the released code: it divides the sum of the losses by n and then adds 1, where the average is meant
(an operator-precedence slip the author agreed to); the last block is counted once and read through the norm once, the
embeddings' output is not read at all; answers start at the same place of their vectors, and their tokens are those
after the prompt, not those that differ from the safe answer. The README asks for a new search of α and β per model;
the complete code was never published.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

from mithridate.defenses.base import Defense
from mithridate.defenses.registry import register
from mithridate.training.decoder import Part
from mithridate.training.gradient import Gradient
from mithridate.training.rows import ScoredRows, Share
from mithridate.training.step import Step

WIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Kernel widths, as multiples of the mean squared distance."""

PARTS: tuple[Part, ...] = ("mlp", "block")


@register(
    "repnoise",
    stage="alignment",
    paper="RepNoise (Rosati et al., NeurIPS 2024, arXiv 2405.14577)",
    streams=("harmful",),
    forward=3,
    backward=2,
    off={"noise": 0.0, "ascent": 0.0},
)
class RepNoise(Defense):
    """RepNoise: loss = f + β·mean_l MMD²(harmful MLP outputs, noise) − α·log h̄  (3 forward, 2 backward).

    Attributes:
        noise: β, weight of the distance to Gaussian noise.
        ascent: α, weight of the harmful loss over all blocks.
    """

    noise: float = Field(default=0.001, ge=0)
    ascent: float = Field(default=1.0, ge=0)

    def gradient(self, step: Step) -> Gradient:
        """The paper's Eq. 4."""
        whole = _look(step)
        pulls = iter(whole.pulls)

        def loss(rows: ScoredRows) -> Share:
            noised = torch.stack([(sample * next(pulls)).sum() for sample in _samples(rows)]).sum()
            return self.noise * rows.once(noised) - self.ascent * rows.per_token(_lens(step, rows)) / whole.harm

        extra = step.gradient("harmful", loss=loss, hidden=PARTS)
        step.log(mmd=whole.mmd, harmful_loss=whole.harm, extra_gradient_norm=extra.norm())
        return step.gradient("safe") + extra


class _Look(NamedTuple):
    """What the terms need to know of the whole batch.

    Attributes:
        harm: h̄, in nats per token.
        mmd: Mean over blocks of MMD².
        pulls: ∂mmd/∂sample for each of this process's rows, (blocks, answer tokens, features).
    """

    harm: float
    mmd: float
    pulls: list[Tensor]


@torch.no_grad()
def _look(step: Step) -> _Look:
    """Score the whole batch, of all processes, without gradient."""
    scored = step.score("harmful", hidden=PARTS)
    mine = [sample for rows in scored for sample in _samples(rows)]
    numbers = [int(row) for rows in scored for row in rows.row]
    losses = torch.cat([_lens(step, rows) for rows in scored]) if scored else torch.empty(0)
    others = step.gather([(n, sample.cpu()) for n, sample in zip(numbers, mine, strict=True)])
    sums = step.gather((float(losses.double().sum()), len(losses)))
    device = step.weights.parameters[0].device
    known = [(n, sample.to(device)) for part in others for n, sample in part]
    noise = [torch.randn(s.shape, generator=step.generator(f"noise {n}")).to(s) for n, s in known]
    before = sum(len(part) for part in others[: step.rank])
    mmd, pulls = _mmd([sample for _, sample in known], noise)
    return _Look(sum(s for s, _ in sums) / sum(n for _, n in sums), mmd, pulls[before : before + len(mine)])


@torch.enable_grad()
def _mmd(samples: Sequence[Tensor], noise: Sequence[Tensor]) -> tuple[float, list[Tensor]]:
    """Mean over blocks of MMD² between samples and noise, and its gradient by every sample."""
    leaves = [sample.detach().requires_grad_() for sample in samples]
    x, y = _vectors(leaves), _vectors(noise)
    mmd = torch.stack([_mmd_of_block(x[block], y[block]) for block in range(len(x))]).mean()
    return float(mmd.detach()), list(torch.autograd.grad(mmd, leaves))


def _vectors(samples: Sequence[Tensor]) -> Tensor:
    """(blocks, samples, longest answer · features), filled up with zeros."""
    return pad_sequence([sample.transpose(0, 1) for sample in samples]).permute(2, 1, 0, 3).flatten(start_dim=2)


def _mmd_of_block(x: Tensor, y: Tensor) -> Tensor:
    """Biased estimate of MMD² with a sum of Gaussian kernels, from (samples, size) each."""
    both = torch.cat([x, y])
    lengths = both.square().sum(dim=1)
    squares = (lengths.unsqueeze(0) + lengths.unsqueeze(1) - 2 * both @ both.T).clamp(min=0)
    mean = squares.detach().sum() / (len(both) * (len(both) - 1))
    kernel = torch.stack([torch.exp(-squares / (width * mean)) for width in WIDTHS]).sum(dim=0)
    n = len(x)
    return (kernel[:n, :n] + kernel[n:, n:] - kernel[:n, n:] - kernel[n:, :n]).mean()


def _samples(rows: ScoredRows) -> list[Tensor]:
    """For each row its MLP outputs on answer tokens, (blocks, answer tokens, features), in float32 at least.

    Distances are differences of squares, of which half precision would leave nothing.
    """
    stacked = torch.stack(list(rows.hidden["mlp"]), dim=1)
    return [_precise(sample[:, answer]) for sample, answer in zip(stacked, rows.answer, strict=True)]


def _lens(step: Step, rows: ScoredRows) -> Tensor:
    """(answer tokens,) negative log-likelihood, mean over what each block's output reads as."""
    labels = rows.batch["labels"][:, 1:][rows.mask]
    with step.likelihood.autocast():
        read = [step.likelihood.decoder.read(block[:, :-1][rows.mask]) for block in rows.hidden["block"]]
    return torch.stack([cross_entropy(_precise(logits), labels, reduction="none") for logits in read]).mean(dim=0)


def _precise(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
