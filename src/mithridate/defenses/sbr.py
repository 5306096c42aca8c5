"""SBR: tie the hidden state of a few harmful prompts to where the aligned model has it.

Lu, Sha, Wang, Sun, Zhou. "Safety anchor: defending harmful fine-tuning via geometric bottlenecks", ICML 2026,
arXiv 2605.05995.

    g = ∇[ L(w) + λ · mean over anchors and features of (h(w) − h(w_0))² ]

with h the state behind the last norm at the last token of an anchor's prompt, anchors 1 to 8 harmful prompts, and w_0
the weights before fine-tuning. h(w_0) is found once, and anchors are cut behind their prompts, which no later token
changes. Cost: 1 forward and 1 backward pass, and the anchors' prompts. With dropout h(w_0) is found anew in every
step, with the step's own masks, so that a model that has not moved has not drifted.

Difference. From the released script, which lacks an import and does not start: none is known beyond that.
"""

from collections.abc import Sequence
from zlib import crc32

import torch
from pydantic import Field
from torch import Tensor

from mithridate.defenses.registry import register
from mithridate.models.modes import drops
from mithridate.models.tokenization import IGNORED, TokenizedRow
from mithridate.training.defense import Defense, StreamPasses
from mithridate.training.gradient import Gradient
from mithridate.training.scored_rows import LossShare, ScoredRows
from mithridate.training.step import Step


@register(
    "sbr",
    stage="finetuning",
    paper="SBR (ICML 2026, arXiv 2605.05995)",
    streams=("harmful",),
    references=("start",),
    forward=1,
    backward=1,
    off={"strength": 0.0},
    extra="8 anchor prompts, 1 forward + 1 backward, and once 1 forward",
    vectors=2,
)
class SBR(Defense):
    """SBR: g = ∇[L + λ·MSE(last hidden state of anchor prompts, same under the aligned model)]  (1 pass, anchors).

    Attributes:
        strength: λ.
        anchors: Number of anchor prompts, the first of the harmful stream.
    """

    never_kept = (
        "the pull grows with the drift, so that a kept one would be missing while the model drifts and go on once it "
        "is back; have fewer anchors to save time"
    )

    strength: float = Field(default=50.0, ge=0)
    anchors: int = Field(default=8, ge=1)

    def passes_over(self, main: str) -> list[StreamPasses]:
        """Return the pass over the user's rows, and that over the anchors' prompts."""
        return [StreamPasses(main, 1, 1), StreamPasses("harmful", 1, 1, rows=self.anchors, part="prompts")]

    def gradient(self, step: Step) -> Gradient:
        """User loss plus the anchors' drift."""
        anchors = self._anchors(step)
        # With dropout the aligned model is asked in every step, under the masks of that step.
        states = None if drops(step.model) else self._states(step, anchors)

        def drift(rows: ScoredRows) -> LossShare:
            """Mean over anchors and features of the squared change at the prompt's last token."""
            now = _ends(rows)
            then = _ends(rows.reference) if states is None else states[rows.row.cpu()].to(now)
            return rows.per_row((now - then).square().mean(dim=1))

        found = step.gradient(anchors, loss=drift, hidden=("final",), reference=states is None)
        extra = self.strength * found
        step.log(extra_gradient_norm=extra.norm())
        return step.gradient("user") + extra

    def _states(self, step: Step, anchors: Sequence[TokenizedRow]) -> Tensor:
        """Return the anchors' states under the aligned model, (anchors, features); found once."""
        # A training that is resumed may have been given others.
        of = crc32(repr([list(anchor.input_ids) for anchor in anchors]).encode())
        if step.memory.get(_ANCHORS) != of:
            with step.at_start():
                scored = step.score(anchors, hidden=("final",))
            mine = [
                (place, end.cpu()) for rows in scored for place, end in zip(rows.row.tolist(), _ends(rows), strict=True)
            ]
            found = dict(pair for part in step.gather(mine) for pair in part)
            step.memory[_STATES] = torch.stack([found[place] for place in range(len(anchors))])
            step.memory[_ANCHORS] = of
        states: Tensor = step.memory[_STATES]
        return states

    def _anchors(self, step: Step) -> list[TokenizedRow]:
        # Always the same prompts, which is what ties the state down.
        return [_cut(row, place) for place, row in enumerate(step.first("harmful", self.anchors))]


_STATES = "anchor_states"
"""Name under which the anchors' states under the aligned model are remembered, (anchors, features)."""
_ANCHORS = "anchors"
"""Name under which a checksum of the anchors is remembered."""


def _cut(row: TokenizedRow, place: int) -> TokenizedRow:
    """Return a row up to its first trained token, which marks the prompt's end, known by its place."""
    # Nothing predicts a row's first token, so its label does not count.
    end = next((place for place, label in enumerate(row.labels) if place and label != IGNORED), len(row.labels))
    return TokenizedRow(row.input_ids[: end + 1], row.labels[: end + 1], place)


def _ends(rows: ScoredRows) -> Tensor:
    """(rows, features) behind the last norm at each prompt's last token."""
    return rows.at_prompt_end(rows.hidden["final"][0])
