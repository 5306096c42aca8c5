"""The base class of attacks on a finished model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

from datasets import Dataset
from torch import nn

from mithridate.attacks.attack_settings import NEEDS, AttackSettings
from mithridate.attacks.attacked_rows import permutation
from mithridate.data.overlap import last_user_turn
from mithridate.errors import AttackError, DefenseError, ModelError, UsageError
from mithridate.evaluation.generation import generate
from mithridate.models.modes import undisturbed
from mithridate.models.preconditions import check_finite
from mithridate.models.quantized_base import keep_differentiable
from mithridate.models.tokenization import require_chat_template
from mithridate.models.undo import undone


@dataclass(frozen=True)
class ReleaseInputs:
    """What an attacker of a finished model has; none of it may be what the model is measured on.

    Attributes:
        benign: Harmless rows.
        harmful: Harmful rows.
        seed: Seed of the draws.
    """

    benign: Dataset | None = None
    harmful: Dataset | None = None
    seed: int = 0

    def take(self, stream: str, count: int) -> Dataset:
        """Return ``count`` random rows of a stream.

        Raises:
            UsageError: If there are fewer.
        """
        rows: Dataset = getattr(self, stream)
        if len(rows) < count:
            raise UsageError(f"The attack asks for {count} {stream} rows and there are {len(rows)}.")
        return rows.select(permutation(len(rows), stream, self.seed)[:count])

    def prompts(self, stream: str, count: int) -> list[str]:
        """Return the questions of ``count`` random rows of a stream."""
        return [last_user_turn(prompt) for prompt in self.take(stream, count)["prompt"]]


class AnsweringModel:
    """A model under attack, which can be asked.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self.tokenizer = model, tokenizer

    def answers(self, prompts: Sequence[str], *, max_new_tokens: int = 64, batch_size: int = 32) -> list[str]:
        """Return greedy answers to prompts, as the attacker sees them."""
        return generate(self.model, self.tokenizer, prompts, max_new_tokens=max_new_tokens, batch_size=batch_size)


class ReleaseAttack(AttackSettings):
    """An attack on a finished model, which is as before once the attack is over.

    Attributes:
        rewrites: Whether it writes whole weights, an adapter merged in, which a quantized base does not have.
    """

    rewrites: ClassVar[bool] = False

    @contextmanager
    def on(self, model: nn.Module, tokenizer: Any, inputs: ReleaseInputs | None = None) -> Iterator[AnsweringModel]:
        """Inside the block the model is attacked; every bit of its weights, flags and modes is restored after it.

        Args:
            model: A finished model, PEFT or plain.
            tokenizer: Its tokenizer, with a chat template.
            inputs: What the attacker has.

        Yields:
            The model under attack.

        Raises:
            UsageError: If rows that the attack needs are not given, or are too few.
            ModelError: If weights hold NaN or Inf or cannot be written, or there is no chat template.
            AttackError: If the attack cannot act on this model, or changes nothing.
        """
        given = ReleaseInputs() if inputs is None else inputs
        for need in self.needs:
            if getattr(given, need) is None:
                raise UsageError(f"the attack '{self.info.name}' needs {NEEDS[need]}; give ReleaseInputs({need}=…)")
        if any(parameter.is_inference() for parameter in model.parameters()):
            raise ModelError(
                "the model was made inside torch.inference_mode, so its weights are fixed; load it again outside"
            )
        check_finite(model)
        keep_differentiable(model)
        require_chat_template(tokenizer)
        with undisturbed([model]), undone(), ExitStack() as stack:
            try:
                attacked = stack.enter_context(self.applied(model, tokenizer, given))
            except DefenseError as error:
                # From parts that repairs use too; in a recipe it would be told of the variant's defense.
                raise AttackError(f"the attack '{self.info.name}' cannot act: {error}") from error
            yield attacked

    def applied(self, model: Any, tokenizer: Any, inputs: ReleaseInputs) -> AbstractContextManager[AnsweringModel]:
        """Return a block in which the model is attacked.

        Weights that are written through ``mithridate.models.undo.overwrite``, flags and modes are restored by `on`;
        whatever else is changed, the block itself must undo.
        """
        raise NotImplementedError


def prompt_ids(tokenizer: Any, prompts: Sequence[str]) -> list[list[int]]:
    """Return the token ids of prompts, up to where an answer begins."""
    chats = [[{"role": "user", "content": prompt}] for prompt in prompts]
    encoded = tokenizer.apply_chat_template(chats, add_generation_prompt=True, tokenize=True, return_dict=True)
    return [list(ids) for ids in encoded["input_ids"]]
