"""Embeddings before the prompt, optimized for harmful answers."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from mithridate.attacks.attack_registry import register_attack
from mithridate.attacks.attacked_rows import permutation
from mithridate.attacks.release_attack import AnsweringModel, ReleaseAttack, ReleaseInputs, prompt_ids
from mithridate.errors import AttackError
from mithridate.evaluation.generation import generate_ids
from mithridate.models.batches import collate
from mithridate.models.modes import evaluating
from mithridate.models.tokenization import IGNORED, TokenizedRow, tokenize


@register_attack(
    "soft_prompt",
    family="after release",
    paper="Embedding attack: Schwinn et al., 2024 (arXiv:2402.09063), settings of TamperBench (arXiv:2602.06911)",
    needs=("harmful",),
    evades="whatever was done to the weights, which stay as they are: the input is one that no text can make",
    constants={"learning_rate": 0.001, "steps": 200, "optimizer": "SignSGD"},
)
class SoftPrompt(ReleaseAttack):
    """Soft prompt: e ← e − η·sign(∇ loss of harmful answers), k embeddings before every prompt, η = 0.001, 200 steps.

    One soft prompt is optimized for all prompts, on the attacker's own rows; the embeddings of random words are its
    start. Weights are not touched.

    Attributes:
        length: k, number of embeddings.
        learning_rate: η.
        steps: Number of steps.
        batch_size: Rows of a step.
        rows: Harmful rows to draw from; all by default.
        max_length: Longest row in tokens.
    """

    length: int = Field(default=20, ge=1)
    learning_rate: float = Field(default=0.001, gt=0)
    steps: int = Field(default=200, ge=1)
    batch_size: int = Field(default=8, ge=1)
    rows: int | None = Field(default=None, ge=1)
    max_length: int | None = Field(default=512, ge=1)

    @contextmanager
    def applied(self, model: Any, tokenizer: Any, inputs: ReleaseInputs) -> Iterator[AnsweringModel]:
        """Optimize the soft prompt, and ask with it."""
        count = len(inputs.harmful) if self.rows is None else self.rows  # type: ignore[arg-type]
        examples = tokenize(inputs.take("harmful", count), tokenizer, self.max_length)
        soft = _Soft(model, tokenizer, self.length, inputs.seed)
        model.requires_grad_(False)
        with evaluating(model):
            self._optimize(soft, examples, inputs.seed)
        yield _SoftPrompted(soft)

    def _optimize(self, soft: "_Soft", examples: Sequence[TokenizedRow], seed: int) -> None:
        place = soft.placeholder([example.input_ids for example in examples])
        # In front of the row, where it takes no part in the loss.
        front, unread = [place] * self.length, [IGNORED] * self.length
        rows = [TokenizedRow(front + row.input_ids, unread + row.labels, row.row) for row in examples]
        order: list[int] = []
        for step in range(self.steps):
            if len(order) < self.batch_size:
                order += permutation(len(rows), f"soft prompt {step}", seed)
            chosen, order = order[: self.batch_size], order[self.batch_size :]
            batch = collate([rows[at] for at in chosen], 0, soft.model.device)
            batch.pop("row")
            values = soft.values.clone().requires_grad_()
            with soft.put(place, values):
                loss = soft.model(**batch).loss
            (gradient,) = torch.autograd.grad(loss, values)
            if not bool(gradient.isfinite().all()):
                raise AttackError("the soft prompt's gradient is NaN or Inf; load the model in float32")
            soft.values = (soft.values - self.learning_rate * gradient.sign()).detach()


class _Soft:
    """A soft prompt: it stands where the input has a token that occurs nowhere else."""

    def __init__(self, model: Any, tokenizer: Any, length: int, seed: int) -> None:
        self.model, self.tokenizer, self.length = model, tokenizer, length
        self._embedding: nn.Module = model.get_input_embeddings()
        vocabulary = len(tokenizer)
        start = permutation(vocabulary, "soft prompt", seed)
        ids = torch.tensor([[start[at % vocabulary] for at in range(length)]], device=model.device)
        with torch.no_grad():
            # The module's output, since some models scale it.
            self.values: Tensor = self._embedding(ids)[0].float()

    def placeholder(self, encoded: Sequence[Sequence[int]]) -> int:
        """Return a token that occurs in no row, and with which no row is filled up or ended."""
        used = {token for ids in encoded for token in ids} | {0}
        used |= {token for token in (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id) if token is not None}
        free = next((token for token in range(len(self.tokenizer)) if token not in used), None)
        if free is None:
            raise AttackError("the prompts use every token of the vocabulary, so none can mark the soft prompt")
        return free

    @contextmanager
    def put(self, place: int, values: Tensor) -> Iterator[None]:
        """Inside the block the embeddings stand wherever the input has the placeholder, ``length`` times a row."""

        def hook(_: nn.Module, args: Any, output: Tensor) -> Tensor:
            marked = args[0] == place
            # A step of generation reads one token, which may be any, the placeholder too; a prompt reads all of them.
            if marked.shape[1] <= self.length:
                return output
            rows = marked.shape[0]
            return output.masked_scatter(marked.unsqueeze(-1), values.to(output.dtype).repeat(rows, 1))

        handle = self._embedding.register_forward_hook(hook)
        try:
            yield
        finally:
            handle.remove()


class _SoftPrompted(AnsweringModel):
    def __init__(self, soft: _Soft) -> None:
        super().__init__(soft.model, soft.tokenizer)
        self._soft = soft

    def answers(self, prompts: Sequence[str], *, max_new_tokens: int = 64, batch_size: int = 32) -> list[str]:
        if not prompts:
            return []
        encoded = prompt_ids(self.tokenizer, prompts)
        place = self._soft.placeholder(encoded)
        marked = [[place] * self._soft.length + ids for ids in encoded]
        with self._soft.put(place, self._soft.values):
            found = generate_ids(
                self.model, self.tokenizer, marked, max_new_tokens=max_new_tokens, batch_size=batch_size
            )
        texts: list[str] = [
            self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False) for ids in found
        ]
        return [text.strip() for text in texts]
