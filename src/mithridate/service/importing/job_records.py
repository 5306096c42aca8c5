"""Turns the record of a job at OpenAI into a request for the same job here."""

import re
from typing import Any, NamedTuple

from pydantic import ValidationError

from mithridate.service.contract.api_refusal import ApiRefusal
from mithridate.service.contract.job_objects import JobRequest
from mithridate.service.policy_facts import PolicyFacts
from mithridate.validation import sentence

_PAIRS, _VALUE = 16, 512  # of metadata
_MOST_EPOCHS = 50  # of a request
_MOST_BETA = 2.0  # likewise
_KINDS = ("supervised", "dpo")


class CannotMap(ValueError):
    """A record that has no counterpart here."""


class MappedJob(NamedTuple):
    """A request, and what of the record is not in it.

    Attributes:
        request: The request; its files still have their old ids.
        notes: What was left out or changed, one sentence each.
    """

    request: JobRequest
    notes: list[str]


def mapped(record: dict[str, Any], models: dict[str, str], facts: PolicyFacts) -> MappedJob:
    """Return the request for a job.

    Args:
        record: The job's record.
        models: Names of models here by their names there; ``*`` stands for any other that was not tuned there.
        facts: What the policy allows.

    Raises:
        CannotMap: If it has no counterpart here, and why.
    """
    notes: list[str] = []
    method = _tree(record, "method")
    # Records of old have no method; one with a method in another form is not guessed at.
    kind = method.get("type") if record.get("method") is not None else "supervised"
    if kind == "reinforcement":
        raise CannotMap(f"its method is {kind}, which this service does not offer")
    if kind not in _KINDS:
        raise CannotMap(f"its method {kind or record['method']!r:.40} is unknown")
    try:
        facts = facts.of(kind)
    except ApiRefusal as refusal:
        raise CannotMap(f"its method is {kind}; {refusal.message}") from refusal
    if record.get("integrations"):
        notes.append("integrations are left out: nothing about a job leaves this service")
    given = _tree(_tree(method, kind), "hyperparameters") or _tree(record, "hyperparameters")
    chosen = _chosen(given, facts, notes, kind)
    validation = record.get("validation_file")
    if kind == "dpo" and validation is not None:
        notes.append("validation_file is left out: it is scored in supervised tuning alone")
        validation = None
    request = {
        "model": _model(record, models),
        "training_file": record.get("training_file"),
        "validation_file": validation,
        "method": {"type": kind, kind: {"hyperparameters": chosen}},
        "suffix": _suffix(record),
        "seed": _seed(record, notes),
        "metadata": _metadata(record, notes),
    }
    try:
        return MappedJob(JobRequest.model_validate(request), notes)
    except ValidationError as error:
        raise CannotMap(sentence(error, JobRequest)) from error


def _model(record: dict[str, Any], models: dict[str, str]) -> str:
    old = str(record.get("model", ""))
    # A model that was tuned there stands for rows it has learned: no base model takes its place unless named for it.
    new = models.get(old) if old.startswith("ft:") else models.get(old, models.get("*"))
    if new is None:
        raise CannotMap(f"no model stands for '{old[:80]}'; say which with --model '{old[:80]}=NAME'")
    return new


def _tree(record: dict[str, Any], name: str) -> dict[str, Any]:
    """Return an object within a record; an empty one where there is none."""
    found = record.get(name)
    return found if isinstance(found, dict) else {}


def _chosen(given: dict[str, Any], facts: PolicyFacts, notes: list[str], kind: str) -> dict[str, Any]:
    """Return the hyperparameters that the policy allows; others become the policy's own."""
    chosen: dict[str, Any] = {}
    epochs, rate = given.get("n_epochs", "auto"), given.get("learning_rate_multiplier", "auto")
    most = facts.highest_learning_rate / facts.learning_rate
    most_epochs = min(_MOST_EPOCHS, facts.most_epochs)
    if _is_number(epochs) and 1 <= epochs <= most_epochs and epochs == int(epochs):
        chosen["n_epochs"] = int(epochs)
    elif epochs != "auto":
        notes.append(f"n_epochs {epochs!r:.40} becomes auto: the policy allows 1 to {most_epochs:g}")
    if _is_number(rate) and 0 < rate <= most:
        chosen["learning_rate_multiplier"] = float(rate)
        notes.append(f"learning_rate_multiplier {rate:g} now multiplies the policy's rate, {facts.learning_rate:g}")
    elif rate != "auto":
        notes.append(f"learning_rate_multiplier {rate!r:.40} becomes auto: the policy allows up to {most:g}")
    batch = given.get("batch_size", "auto")
    if batch not in ("auto", facts.batch_size):
        notes.append(f"batch_size {batch!r:.40} becomes auto: the policy trains with {facts.batch_size}")
    known = {"n_epochs", "learning_rate_multiplier", "batch_size"}
    if kind == "dpo":
        known |= {"beta"}
        beta = given.get("beta", "auto")
        if _is_number(beta) and 0 < beta <= _MOST_BETA:
            chosen["beta"] = float(beta)
        elif beta != "auto":
            notes.append(f"beta {beta!r:.40} becomes auto: it may be above 0 and up to {_MOST_BETA:g}")
    for name in sorted(given.keys() - known):
        notes.append(f"hyperparameter {name[:80]} is left out: there is none of that name here")
    return chosen


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9


def _suffix(record: dict[str, Any]) -> str | None:
    """Return the suffix: the record has it under its own name, or in that of the tuned model."""
    said = record.get("suffix") or record.get("user_provided_suffix")
    if said:
        return str(said)
    found = re.fullmatch(r"ft:[^:]*:[^:]*:([^:]+):[^:]*", str(record.get("fine_tuned_model") or ""))
    return found[1][:64] if found else None


def _seed(record: dict[str, Any], notes: list[str]) -> int | None:
    seed = record.get("seed")
    if seed is None:
        return None
    if isinstance(seed, int) and not isinstance(seed, bool) and 0 <= seed < 2**31:
        return seed
    notes.append(f"seed {seed!r:.40} becomes the policy's: seeds are 0 to 2147483647")
    return None


def _metadata(record: dict[str, Any], notes: list[str]) -> dict[str, str]:
    """Return the metadata with where the job comes from, as far as there is room."""
    kept = {name: str(value) for name, value in _tree(record, "metadata").items()}
    for name, value in (("imported_job", record.get("id")), ("imported_model", record.get("fine_tuned_model"))):
        if value and len(kept) < _PAIRS and name not in kept:
            kept[name] = str(value)[:_VALUE]
        elif value:
            notes.append(f"{name} is not kept: the metadata has no room for it")
    return kept
