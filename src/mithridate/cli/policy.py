"""The commands ``mithridate policy …``."""

import tempfile
from pathlib import Path

from mithridate.errors import UsageError
from mithridate.experiment.recipe_rows import Source
from mithridate.experiment.row_files import RowFiles
from mithridate.files import write_whole
from mithridate.models.loading import locate
from mithridate.provider.policy_check import check_policy
from mithridate.provider.policy_file import default_text, opened
from mithridate.provider.policy_jobs import PolicyJobs
from mithridate.provider.policy_rows import PolicyRows
from mithridate.provider.screening import calibrated, gate_of


def write_default(file: Path) -> None:
    """Write the default policy.

    Raises:
        UsageError: If the file exists.
    """
    if file.exists():
        raise UsageError(f"{file} exists; give another name, nothing is overwritten")
    write_whole(file, default_text().encode())
    print(f"policy: {file}")


def calibrate(model: str, file: Path | None, benign: Path | None, epochs: float | None, out: Path) -> None:
    """Calibrate a policy's gate, write its thresholds and print them as a table.

    Raises:
        UsageError: If the file exists, the policy has no gate, or the folder holds no uploads.
        GateError: If there are too few harmless rows.
    """
    if out.exists():
        raise UsageError(f"{out} exists; give another --out, nothing is overwritten")
    policy, base = opened(file)
    if policy.gate == "none":
        raise UsageError(f"policy '{policy.name}' has no gate; name its harmless uploads under `gate`")
    screening = policy.gate if benign is None else policy.gate.model_copy(update={"harmless": _uploads(benign)})
    with tempfile.TemporaryDirectory(prefix="policy-") as folder:
        jobs = PolicyJobs(policy, PolicyRows(policy, base, Path(folder)), locate(model, tokenizer=True))
        found = calibrated(
            gate_of(jobs, screening),
            screening,
            RowFiles(base, Path(folder)),
            policy.finetuning.training.epochs if epochs is None else epochs,
        )
    found.save(out)
    print(found.table())
    print(f"thresholds: {out}")


def _uploads(folder: Path) -> dict[str, Source]:
    files = sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []
    if not files:
        raise UsageError(f"{folder} holds no files; give a folder of harmless uploads, one file each")
    return {path.name: Source(source=str(path.resolve())) for path in files}


def check(file: Path | None) -> None:
    """Check a policy's settings, everything it names and its judges, and print how the judges did.

    Raises:
        RecipeError: If a setting is wrong.
        UsageError: If there is no such chat template.
        DataError: If rows have faults.
        GateError: If the gate's thresholds cannot be used.
        JudgeError: If a judge fails its self-test or cannot be reached.
    """
    policy, base = opened(file)
    found = check_policy(policy, base)
    for judge, shares in found.judges.items():
        print(f"judge {judge}: " + ", ".join(f"{kind} {100 * share:.0f} %" for kind, share in shares.items()))
    print(f"policy '{policy.name}' can be used: {len(policy.ladder)} rungs, {found.audit_prompts} audit prompts")
