"""The commands ``mithridate policy …``."""

import tempfile
from pathlib import Path

from mithridate.errors import UsageError
from mithridate.files import write_whole
from mithridate.provider.judge_check import check_judges
from mithridate.provider.policy_file import default_text, opened
from mithridate.provider.policy_rows import PolicyRows


def write_default(file: Path) -> None:
    """Write the default policy.

    Raises:
        UsageError: If the file exists.
    """
    if file.exists():
        raise UsageError(f"{file} exists; give another name, nothing is overwritten")
    write_whole(file, default_text().encode())
    print(f"policy: {file}")


def check(file: Path | None) -> None:
    """Check a policy's settings, rows and judges, and print how the judges did.

    Raises:
        RecipeError: If a setting is wrong.
        DataError: If rows are.
        JudgeError: If a judge fails its self-test or cannot be reached.
    """
    policy, base = opened(file)
    with tempfile.TemporaryDirectory(prefix="policy-") as folder:
        rows = PolicyRows(policy, base, Path(folder))
        tested = check_judges(policy, rows)
    for judge, shares in tested.items():
        print(f"judge {judge}: " + ", ".join(f"{kind} {100 * share:.0f} %" for kind, share in shares.items()))
    print(f"policy '{policy.name}' can be used: {len(policy.ladder)} rungs, {len(rows.audit_prompts)} audit prompts")
