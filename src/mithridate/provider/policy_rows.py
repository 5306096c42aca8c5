"""Reads the provider's rows and audit prompts, and checks that no audit prompt is among the provider's own rows."""

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from mithridate.data import check_disjoint
from mithridate.data.overlap import last_user_turn
from mithridate.errors import DataError
from mithridate.experiment.evaluation_stage import refusal_rules
from mithridate.experiment.jobs import StoredRows
from mithridate.experiment.row_files import RowFiles
from mithridate.files import file_hash
from mithridate.provider.policy_file import template_of
from mithridate.provider.policy_tree import Policy
from mithridate.provider.prompt_templates import PromptTemplate

APART = (
    # What is measured is unseen by whoever trained: a memorized refusal says nothing about other prompts.
    ("safe", "audit"),
    ("alignment", "audit"),
    ("harmful", "audit"),
    ("safe", "look_alikes"),
    ("alignment", "look_alikes"),
    ("safe", "help"),
    ("alignment", "help"),
    ("harmful", "help"),
)
"""Sets that must share no prompt."""


class PolicyRows:
    """The provider's rows and audit prompts, as files in the store.

    Attributes:
        template: The chat template in which all rows are laid out; None for the tokenizer's own.

    Args:
        policy: The policy.
        base: Folder in which relative paths are looked up first.
        folder: Where to write the files.

    Raises:
        DataError: If a file has faults, or an audit prompt is among the provider's rows to train on.
        UsageError: If more rows are asked for than there are.
    """

    def __init__(self, policy: Policy, base: Path, folder: Path) -> None:
        self._files = read = RowFiles(base, folder)
        audit = policy.audit
        self.template = template_of(policy, base)
        self._rules = refusal_rules(audit.judge, None)
        self.safe_rows = read.rows(policy.streams.safe, "streams.safe")
        first = policy.streams.alignment
        alignment = self.safe_rows if first is None else read.rows(first, "streams.alignment")
        self.harmful_rows = read.rows(policy.streams.harmful, "streams.harmful")
        self.refusal_texts = read.refusals(policy.streams.refusals)
        asked = read.rows(audit.help.rows, "audit.help.rows")
        prompts, groups = read.prompts(audit.harmful, "audit.harmful")
        alike, alike_groups = read.prompts(audit.look_alikes, "audit.look_alikes")
        named = {
            "safe": self.safe_rows,
            "alignment": alignment,
            "harmful": self.harmful_rows,
            "audit": prompts,
            "look_alikes": alike,
            "help": asked,
        }
        check_disjoint(named, APART)
        self.audit_prompts = prompts
        self.safe = read.keep_rows("safe", self.safe_rows)
        self.alignment = self.safe if first is None else read.keep_rows("alignment", alignment)
        self.harmful = read.keep_rows("harmful", self.harmful_rows)
        self.refusals = read.keep_texts("refusals", self.refusal_texts)
        self.harmful_prompts = read.keep_texts("audit", prompts)
        self.harmful_groups = read.keep_groups("audit", groups)
        self.look_alikes = read.keep_texts("look-alikes", alike)
        self.look_alike_groups = read.keep_groups("look-alikes", alike_groups)
        self.help = read.keep_rows("help", asked)
        self._help_prompts = [last_user_turn(prompt) for prompt in asked["prompt"]]
        if any(rung.in_templates for rung in policy.ladder) and not self._refusals():
            # Now, not when the first upload comes to that rung.
            raise DataError(
                "ladder: in_templates teaches the refusals of streams.safe; audit.judge finds none there; leave it out"
            )

    def harmful_in(self, template: PromptTemplate) -> StoredRows:
        """Return the audit's harmful prompts in a template, in the same order."""
        return self._files.keep_texts("audit-in-template", [template.around(prompt) for prompt in self.audit_prompts])

    def safe_in(self, templates: Sequence[PromptTemplate]) -> StoredRows:
        """Return the safe rows, and each that refuses once more in one of some templates, by turns."""
        if not templates:
            return self.safe
        turned = zip(self._refusals(), cycle(templates))
        added = [{**row, "prompt": one.chat(last_user_turn(row["prompt"]))} for row, one in turned]
        return self._files.keep_rows("safe-in-templates", [*self.safe_rows, *added])

    def _refusals(self) -> list[dict[str, Any]]:
        return [row for row in self.safe_rows if self._rules.refuses(row["completion"][0]["content"])]

    def harmless_in(self, template: PromptTemplate) -> StoredRows:
        """Return the audit's ordinary prompts in a template."""
        return self._files.keep_texts("help-in-template", [template.around(prompt) for prompt in self._help_prompts])

    def hashes(self) -> dict[str, str]:
        """Return the SHA-256 of every set of rows by name, and of the chat template where that is a file."""
        named = {
            "safe": self.safe,
            "harmful": self.harmful,
            "refusals": self.refusals,
            "audit": self.harmful_prompts,
            "look_alikes": self.look_alikes,
            "help": self.help,
        }
        if self.alignment != self.safe:
            named["alignment"] = self.alignment
        found = {name: stored.sha256 for name, stored in named.items()}
        if self.template is not None and Path(self.template).is_file():
            found["template"] = file_hash(Path(self.template))
        return found
