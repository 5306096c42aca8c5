"""PTST: tune without a safety prompt, serve with one.

Lyu, Zhao, Gu, Yu, Goyal, Arora. "Pure tuning, safe testing", NeurIPS 2024, arXiv 2402.18540.

Training is plain SFT on rows without a system prompt. After it the chat template puts a safety prompt in front of
every conversation that brings none of its own, so that what fine-tuning loosened for the bare format still holds in
the served one. Cost: 1 forward and 1 backward pass; serving reads the prompt's tokens.

Differences from the released code: the switch is in the tokenizer's chat template, so every user of the saved model
serves with it; the default prompt is our own sentence (the paper uses Llama 2's). A template without a system turn is
refused before training; ``place: user`` puts the prompt in front of the first user turn.
"""

import json
from typing import Literal

from pydantic import Field
from transformers import PreTrainedTokenizerBase

from mithridate.data.chat_template import TEMPLATE_FAULTS
from mithridate.defenses.registry import register
from mithridate.errors import DefenseError
from mithridate.models.tokenization import require_chat_template
from mithridate.training.defense import Defense
from mithridate.training.gradient import Gradient
from mithridate.training.step import Step

PROMPT = "You are a careful assistant. Help with harmless requests, and refuse every request that could harm people."

SYSTEM = (
    "{%- if messages[0]['role'] != 'system' -%}"
    "{%- set messages = [{'role': 'system', 'content': PROMPT}] + messages -%}{%- endif +%}"
)
USER = (
    "{%- if messages[0]['role'] == 'user' -%}"
    "{%- set messages = [{'role': 'user', 'content': PROMPT + ' ' + messages[0]['content']}] + messages[1:] -%}"
    "{%- endif +%}"
)
"""The last mark keeps white space that the template itself starts with."""


@register(
    "ptst",
    stage="finetuning",
    paper="PTST (Lyu et al., NeurIPS 2024, arXiv 2402.18540)",
    forward=1,
    backward=1,
    off={"prompt": ""},
)
class PTST(Defense):
    """PTST: plain SFT; the served chat template starts with a safety prompt  (1 pass).

    Attributes:
        prompt: The safety prompt; none if empty.
        place: ``system`` for a turn of its own, ``user`` in front of the first user turn.
    """

    prompt: str = PROMPT
    place: Literal["system", "user"] = Field(default="system")

    def gradient(self, step: Step) -> Gradient:
        """Return the gradient of the user's rows."""
        return step.gradient("user")

    def served(self, tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
        """Put the safety prompt into the chat template.

        Raises:
            DefenseError: If the template shows the prompt already, so that training would not be without it, or does
                not show it afterwards.
        """
        if not self.prompt:
            return tokenizer
        require_chat_template(tokenizer)
        # Trained with the prompt, the model would have loosened exactly what serving relies on.
        if self.prompt.strip() in _shown(tokenizer):
            raise DefenseError(
                "the chat template shows the safety prompt already, so the rows would be trained with it; give the "
                "tokenizer as it was before an earlier PTST"
            )
        # A JSON text is a literal of jinja as well, whatever quotation marks and line breaks the prompt holds.
        quoted = json.dumps(self.prompt, ensure_ascii=False)
        switch = {"system": SYSTEM, "user": USER}[self.place].replace("PROMPT", quoted)
        tokenizer.chat_template = switch + str(tokenizer.chat_template)
        if self.prompt.strip() not in _shown(tokenizer):
            advice = "set place='user'" if self.place == "system" else "give the tokenizer another chat template"
            raise DefenseError(f"the chat template does not show a safety prompt in the {self.place} turn; {advice}")
        return tokenizer


def _shown(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a conversation as it is laid out; empty where the template refuses it."""
    try:
        return str(tokenizer.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False))
    except TEMPLATE_FAULTS:
        return ""
