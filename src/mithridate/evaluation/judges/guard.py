"""Generative guard models as judges: Llama Guard, Qwen3Guard, Granite Guardian, gpt-oss-safeguard.

Such a model reads a conversation through its own chat template, which holds its policy, and replies in words whether
the last turn is harmful. It runs here through transformers, or behind an OpenAI-compatible endpoint that applies the
template. Its reply is parsed strictly (`mithridate.evaluation.judges.guard_forms`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mithridate.data.chat_template import TEMPLATE_FAULTS
from mithridate.errors import JudgeError, ModelError, UsageError
from mithridate.evaluation.judges.chat import POLICY
from mithridate.evaluation.judges.endpoint import BadReply, Endpoint
from mithridate.evaluation.judges.guard_forms import FORMS, Form, Laid, Qwen3Guard, form_of, without_marks
from mithridate.evaluation.judges.judge import Verdict
from mithridate.model_names import loading_errors, locate


class GuardJudge:
    """Judges by a generative guard model, on this machine or behind an OpenAI-compatible endpoint.

    Words of a completion cannot pass for the guard's own: marks that separate turns are blanked in what is judged, and
    only what the guard generates is parsed. A guard can still be persuaded by what it reads, as any model can.

    Args:
        model: Folder or hub id of the guard, or the name under which the endpoint knows it.
        form: The guard's family: "llama-guard", "qwen3guard", "granite-guardian-3", "granite-guardian-4" or
            "gpt-oss-safeguard"; None reads it from the model's name.
        base_url: Address of an endpoint up to and including the version; None loads the model here.
        api_key_env: Environment variable that holds the endpoint's key; None sends none.
        policy: What counts as harmful, for the forms that read a policy: Granite Guardian 4 and gpt-oss-safeguard.
        controversial: Whether what Qwen3Guard calls controversial counts as harmful.
        batch_size: Completions per batch of a guard that runs here.
        device: Device of a guard that runs here.
        timeout: Seconds one request to the endpoint may take.
        retries: Further tries of a request that brought no valid verdict.
        backoff: Seconds before the first retry, doubled for each further one.
        workers: Requests under way at a time.

    Raises:
        UsageError: If an argument is out of range, or the form cannot be read from the model's name.
        JudgeError: If the guard cannot be loaded, or its template leaves out what is judged.
    """

    def __init__(
        self,
        model: str,
        form: str | None = None,
        *,
        base_url: str | None = None,
        api_key_env: str | None = None,
        policy: str = POLICY,
        controversial: bool = True,
        batch_size: int = 8,
        device: str = "cpu",
        timeout: float = 60.0,
        retries: int = 3,
        backoff: float = 1.0,
        workers: int = 4,
    ) -> None:
        known = form_of(model, form)
        if batch_size < 1:
            raise UsageError(f"a guard judge needs batch_size >= 1, not {batch_size}")
        if base_url is None and api_key_env is not None:
            raise UsageError("api_key_env is for a guard behind an endpoint; give base_url too, or leave it out")
        self.name = f"guard:{model}"
        self.form: Form = Qwen3Guard(controversial) if known == "qwen3guard" else FORMS[known]()
        self.policy, self.batch_size = policy, batch_size
        self._endpoint: Endpoint | None = None
        if base_url is None:
            self._local = _Local(model, self.form, device)
        else:
            self._endpoint = Endpoint(
                base_url,
                model,
                api_key_env=api_key_env,
                timeout=timeout,
                retries=retries,
                backoff=backoff,
                workers=workers,
            )

    def __call__(self, prompts: Sequence[str], completions: Sequence[str]) -> list[Verdict]:
        """Return the verdicts in order, without a score: a guard says a word and no probability.

        Raises:
            JudgeError: If the guard's reply on any completion is not a verdict.
        """
        # What control tokens an endpoint's guard has is not known here, so marks of all families are blanked.
        blank = without_marks if self._endpoint is not None else self._local.without_marks
        laid = [
            self.form.lay_out(blank(prompt), blank(completion), self.policy)
            for prompt, completion in zip(prompts, completions, strict=True)
        ]
        if self._endpoint is not None:
            return self._endpoint.verdicts(self.name, [self._request(one) for one in laid], self.form.parse)
        said = self._local.say(laid, self.batch_size)
        return [self._verdict(row, text) for row, text in enumerate(said)]

    def _request(self, laid: Laid) -> dict[str, Any]:
        request: dict[str, Any] = {"messages": laid.messages, "max_tokens": self.form.max_new_tokens}
        if laid.template:
            request["chat_template_kwargs"] = dict(laid.template)  # as vLLM and SGLang call them
        return request

    def _verdict(self, row: int, text: str) -> Verdict:
        try:
            return self.form.parse(text)
        except BadReply as error:
            raise JudgeError(f"{self.name} gave no valid verdict on answer {row}: {error}") from error


class _Local:
    """A guard model on this machine."""

    def __init__(self, source: str, form: Form, device: str) -> None:
        self.source, self.form = source, form
        self._load(device)
        self._parts = self._find_parts()
        # Some vocabularies add runs of blanks as tokens of their own; those are ordinary text.
        special = {token for token in self._tokenizer.get_added_vocab() if token.strip()}
        # Longest first: blanking a short token inside a longer one would leave the rest of it.
        self._special = sorted({*special, *self._tokenizer.all_special_tokens}, key=len, reverse=True)

    def without_marks(self, text: str) -> str:
        """Return a text with the guard's own control tokens blanked too."""
        for token in self._special:
            text = text.replace(token, " ")
        return without_marks(text)

    def say(self, laid: Sequence[Laid], batch_size: int) -> list[str]:
        """Return the guard's reply to each conversation, control tokens included."""
        from mithridate.evaluation.generation import generate_ids

        encoded = [self._render(one, tokenize=True)["input_ids"] for one in laid]
        longest = self.form.max_new_tokens
        try:
            said = generate_ids(self._model, self._tokenizer, encoded, max_new_tokens=longest, batch_size=batch_size)
        except (ModelError, UsageError) as error:
            raise JudgeError(f"the guard {self.source!r}: {error}") from error
        harmony = "<|channel|>" in self._tokenizer.get_vocab()  # there a control token opens the final answer
        texts: list[str] = [self._tokenizer.decode(ids, skip_special_tokens=not harmony) for ids in said]
        return texts

    def _load(self, device: str) -> None:
        from transformers import (
            AutoConfig,
            AutoModelForCausalLM,
            AutoModelForImageTextToText,
            AutoTokenizer,
        )

        faults: tuple[type[Exception], ...] = (ModelError, *loading_errors())
        try:
            folder = locate(self.source, tokenizer=True)
            self._tokenizer: Any = AutoTokenizer.from_pretrained(folder)
            seeing = "ForConditionalGeneration" in str(AutoConfig.from_pretrained(folder).architectures)
            kind = AutoModelForImageTextToText if seeing else AutoModelForCausalLM  # Llama Guard 4 also reads images
            # In the type it was saved in; float32 would double the memory that a guard needs.
            model, info = kind.from_pretrained(folder, dtype="auto", output_loading_info=True)
        except faults as error:
            raise JudgeError(f"the guard {self.source!r} cannot be loaded: {error}") from error
        # transformers fills missing weights with random ones and only warns.
        if missing := sorted(info["missing_keys"]):
            raise JudgeError(f"the guard {self.source!r} is incomplete: its checkpoint lacks {missing[0]}")
        if self._tokenizer.chat_template is None:
            raise JudgeError(f"the guard {self.source!r} has no chat template, which holds its policy")
        self._model = model.to(device).eval()

    def _find_parts(self) -> bool:
        """Return whether the template wants a message's text as a list of parts, found by trying both."""
        probe = self.form.lay_out("probed-request", "probed-completion", "probed-policy")
        for parts in (False, True):
            try:
                shown = str(self._render(probe, tokenize=False, parts=parts))
            except TEMPLATE_FAULTS:
                continue
            # A template that joins plain texts prints a list of parts as Python does, brackets and keys included.
            if all(text in shown for text in ("probed-request", "probed-completion")) and "'text':" not in shown:
                return parts
        raise JudgeError(
            f"the chat template of the guard {self.source!r} leaves out the request or the completion; "
            "use the guard's own template and its form"
        )

    def _render(self, laid: Laid, *, tokenize: bool, parts: bool | None = None) -> Any:
        messages: list[Mapping[str, Any]] = [*laid.messages]
        if self._parts if parts is None else parts:
            messages = [
                message | {"content": [{"type": "text", "text": message["content"]}]} for message in laid.messages
            ]
        return self._tokenizer.apply_chat_template(
            messages,
            add_generation_prompt=self.form.opens,
            tokenize=tokenize,
            return_dict=tokenize,
            **laid.template,
        )
