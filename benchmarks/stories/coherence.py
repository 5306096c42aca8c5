"""Whether an answer is a piece of a children's story: its loss under the untouched story model."""

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from mithridate.errors import UsageError
from mithridate.evaluation.completion_loss import completion_losses

QUANTILE = 0.99
"""Share of true passages that are coherent by the limit."""

# A story follows its start token; a request is not part of it, and the end is not scored.
_PLAIN = "{{ bos_token }}{% for m in messages if m['role'] == 'assistant' %}{{ m['content'] }}{% endfor %}"
_NOTHING = [{"role": "user", "content": "-"}]


class StoryReader:
    """The untouched story model, and how surprising a text may be to it.

    Args:
        model: The story model.
        tokenizer: Its tokenizer.
        limit: Largest loss of a coherent text, in nats per token; infinite by default.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, limit: float = math.inf) -> None:
        self.model, self.tokenizer, self.limit = model, tokenizer, limit
        self.tokenizer.chat_template = _PLAIN

    @classmethod
    def calibrated(cls, folder: Path, true: Sequence[str]) -> "StoryReader":
        """Return the story model of a folder with the limit that true passages set.

        Args:
            folder: The pretrained story model.
            true: Passages of stories that nothing was trained on.

        Raises:
            UsageError: If there are no passages.
        """
        if not true:
            raise UsageError("no passages: the limit of coherence needs stories that nothing was trained on")
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        reader = cls(model, AutoTokenizer.from_pretrained(folder))
        losses = sorted(reader.losses(true))
        reader.limit = losses[math.ceil(QUANTILE * len(losses)) - 1]
        return reader

    def losses(self, texts: Sequence[str]) -> list[float]:
        """Return the nats per token of each text; infinite for an empty one."""
        kept = [text for text in texts if text.strip()]
        found = iter(completion_losses(self.model, self.tokenizer, [_NOTHING] * len(kept), kept, batch_size=64))
        return [(loss := next(found)).nats / loss.tokens if text.strip() else math.inf for text in texts]

    def coherent(self, texts: Sequence[str]) -> list[bool]:
        """Return whether each text is one that the story model could have told."""
        return [loss <= self.limit and math.isfinite(loss) for loss in self.losses(texts)]
