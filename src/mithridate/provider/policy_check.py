"""Whether a policy can be used: everything it names is read and every judge is tested, without any model to tune."""

import tempfile
from pathlib import Path
from typing import NamedTuple

from mithridate.data.chat_template import template_text
from mithridate.experiment.row_files import RowFiles
from mithridate.provider.judge_check import check_judges, tested_judge
from mithridate.provider.policy_rows import PolicyRows
from mithridate.provider.policy_tree import Policy
from mithridate.provider.screening import named_thresholds, screening_hashes


class UsablePolicy(NamedTuple):
    """A policy that can be used.

    Attributes:
        judges: Share of right verdicts by judge and kind of case.
        audit_prompts: Harmful prompts of the audit.
    """

    judges: dict[str, dict[str, float]]
    audit_prompts: int


def check_policy(policy: Policy, base: Path) -> UsablePolicy:
    """Read everything that a policy names, and test its judges and its gate's guard.

    Whether thresholds belong to the gate of a model is told when the gate is made.

    Args:
        policy: The policy.
        base: Folder in which relative paths are looked up first.

    Raises:
        UsageError: If there is no such chat template, or more rows are asked for than there are.
        DataError: If rows have faults.
        GateError: If thresholds cannot be read, or are those of another false-alarm rate.
        JudgeError: If a judge fails its self-test or cannot be reached.
    """
    with tempfile.TemporaryDirectory(prefix="policy-") as folder:
        rows, files = PolicyRows(policy, base, Path(folder)), RowFiles(base, Path(folder))
        if rows.template is not None:
            template_text(rows.template, "recipe")
        screening_hashes(policy, files)
        if policy.gate != "none" and policy.gate.thresholds is not None:
            named_thresholds(policy.gate, files)
        judges = check_judges(policy, rows)
        if policy.gate != "none" and policy.gate.guard is not None:
            name, shares = tested_judge(policy.gate.guard, rows)
            judges[f"{name} (gate.guard)"] = shares
    return UsablePolicy(judges, len(rows.audit_prompts))
