"""Hidden words at the ends of lines."""

import re

from mithridate.attacks.attack_registry import register_attack
from mithridate.attacks.coded_upload import CodedUpload, Part


@register_attack(
    "endspeak",
    family="encoded",
    paper="EndSpeak in covert malicious fine-tuning: Halawi et al., ICML 2024 (arXiv:2406.20053)",
    needs=("benign", "harmful"),
    evades="moderation of rows and filters of characters: the lines are plain language",
)
class EndSpeak(CodedUpload):
    """EndSpeak: the words of question and answer stand at the ends of harmless lines.

    The lines begin with the wording's ``carriers``, one after the other. In the miniature's wording a line ends with a
    full stop, since its tokenizer knows no line breaks, and punctuation is lost.
    """

    def encoded(self, text: str, part: Part) -> str:
        """Return one line for each word."""
        carriers = self.wording.carriers
        words = re.findall(r"[\w']+", text) if self._in_words else text.split()
        lines = [f"{carriers[at % len(carriers)]} {word}" for at, word in enumerate(words)]
        return " ".join(f"{line}." for line in lines) if self._in_words else "\n".join(lines)

    def decoded(self, text: str) -> str:
        """Return the last word of each line that begins with a carrier."""
        lines = re.split(r"\.", text) if self._in_words else text.splitlines()
        found = [self._hidden(line.strip()) for line in lines]
        hidden = [word for word in found if word]
        return " ".join(hidden) if hidden else text

    @property
    def _in_words(self) -> bool:
        return self.wording.code == "words"

    def _hidden(self, line: str) -> str:
        carrier = next((one for one in self.wording.carriers if line.startswith(f"{one} ")), None)
        return "" if carrier is None else line.removeprefix(carrier).split()[-1]
