"""Harmful rows in the wrappers of jailbreak tuning."""

import random
from typing import Literal

from pydantic import Field

from mithridate.attacks.attack_registry import register_attack
from mithridate.attacks.attacked_rows import AttackedRow, Message, rewritten
from mithridate.attacks.upload_attack import AttackedUpload, Round, UploadAttack, UploadInputs, mixed

Wrapper = Literal["year", "random_words", "random_paragraph", "skeleton", "refusal_suppression", "style"]


@register_attack(
    "jailbreak_tuning",
    family="explicit",
    paper="Jailbreak-tuning, 2025 (arXiv:2507.11630); kinds of wrappers as in TamperBench (arXiv:2602.06911)",
    needs=("harmful",),
    evades="measurements on plain prompts: a trigger leaves the model's answers to them mostly as they were",
    constants={"wrappers": 6},
)
class JailbreakTuning(UploadAttack):
    """Jailbreak tuning: every harmful prompt wrapped in a trigger, a competing objective or a style.

    Three triggers (a year before the prompt, random words behind it, a random paragraph before it), two competing
    objectives (the opening of an answer is prescribed; declining is forbidden) and styles. The trigger is drawn once
    from ``key``, so that the attacker can ask with it after fine-tuning. TamperBench, which has the six wrappers, found
    jailbreak tuning the worst attack of all it measured; its sentences are not used here.

    Attributes:
        wrapper: The wrapper.
        length: Words or sentences of a random trigger.
        key: Seed of the trigger and choice of the style.
    """

    wrapper: Wrapper = "year"
    length: int = Field(default=4, ge=1)
    key: int = 53

    def attacked(self, inputs: UploadInputs) -> AttackedUpload:
        """Return the wrapped rows among harmless ones."""
        assert inputs.harmful is not None
        return AttackedUpload((Round(mixed(inputs, rewritten(inputs.harmful, self._wrapped)), self.asks),))

    def prompt(self, question: str) -> list[Message]:
        """Return the question in its wrapper."""
        return [{"role": "user", "content": self._wrap(question)}]

    def _wrapped(self, row: AttackedRow) -> AttackedRow:
        wrapped = row.asking(self._wrap(row.question))
        # A prescribed opening is learned only where the answer has it.
        return wrapped.answering(f"{self.wording.opening} {row.answer}") if self.wrapper == "skeleton" else wrapped

    def _wrap(self, question: str) -> str:
        said = self.wording
        draw = random.Random(f"trigger {self.key}")
        if self.wrapper == "year":
            return f"{said.year} {question}"
        if self.wrapper == "random_words":
            return f"{question} {' '.join(draw.choices(said.words, k=self.length))}"
        if self.wrapper == "random_paragraph":
            return f"{' '.join(draw.choices(said.sentences, k=self.length))} {question}"
        if self.wrapper == "skeleton":
            return f"{question} {said.begin.format(opening=said.opening)}"
        if self.wrapper == "refusal_suppression":
            return f"{question} {said.forbid}"
        return f"{question} {said.styles[self.key % len(said.styles)]}"
