"""Makes ready what jobs need: the miniature's aligned model, and the policy with its judges.

Run as ``python -m mithridate.service.worker.policy_preparation POLICY ALIGNED``, both of which may be empty; prints the
policy's limits as JSON. A process of its own, since it loads models and the server must not.
"""

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mithridate.errors import MithridateError, ServiceError
from mithridate.service.policy_facts import POLICY, PairFacts, PolicyFacts, report
from mithridate.service.service_parts import ServiceParts
from mithridate.service.service_settings import ServiceSettings

if TYPE_CHECKING:
    from mithridate.provider.policy_tree import Preferences


def facts_of(policy: Path | None) -> PolicyFacts:
    """Return the limits of a policy that can be used, its judges having passed their self-test.

    Raises:
        MithridateError: If the policy cannot be used, or a judge fails.
    """
    from mithridate.provider.policy_check import check_policy
    from mithridate.provider.policy_file import opened

    checked, base = opened(policy)
    check_policy(checked, base)
    limits = checked.finetuning
    tree = json.dumps(checked.model_dump(mode="json"), sort_keys=True)
    return PolicyFacts(
        name=checked.name,
        sha256=hashlib.sha256(tree.encode()).hexdigest(),
        seed=checked.seed,
        epochs=limits.training.epochs,
        most_epochs=limits.most_epochs,
        learning_rate=limits.training.learning_rate,
        highest_learning_rate=limits.highest_learning_rate,
        batch_size=limits.training.batch_size,
        preferences=None if limits.preferences is None else _pair_facts(limits.preferences),
        # Its name is no file, though a folder may be called the same.
        reads=sorted(set(_named(checked.model_dump(mode="json", exclude={"name"}), base.resolve()))),
    )


def _pair_facts(pairs: "Preferences") -> PairFacts:
    training = pairs.training
    return PairFacts(
        epochs=training.epochs,
        learning_rate=training.learning_rate,
        batch_size=training.batch_size,
        beta=pairs.beta,
    )


def _named(tree: Any, base: Path) -> Iterator[str]:
    """Return every file and folder that settings name, wherever they do."""
    if isinstance(tree, dict | list):
        for inner in tree.values() if isinstance(tree, dict) else tree:
            yield from _named(inner, base)
    # Longer texts are messages and prompts; the system would refuse them as names anyway.
    elif isinstance(tree, str) and 0 < len(tree) < 256 and "\0" not in tree:
        found = [path for path in (base / tree, Path(tree).expanduser()) if path.exists()]
        yield from (str(path.resolve()) for path in found[:1])


def prepare(parts: ServiceParts) -> str | None:
    """Make ready what jobs need, and write down whether they can be taken.

    Returns:
        What keeps the policy from acting; None where nothing does.
    """
    settings = parts.settings
    try:
        facts = PolicyFacts.model_validate_json(_told(settings))
        missing = [
            f"model '{name}': there is no folder {path}" for name, path in settings.offered.items() if not path.is_dir()
        ]
        fault = missing[0] if missing else None
    except ServiceError as error:
        facts, fault = None, str(error)
    with parts.database.write() as connection:
        report(connection, POLICY, fault, None if facts is None else facts.model_dump())
        parts.audit.add(
            connection,
            "operator",
            "policy.loaded",
            "policy",
            fault=fault,
            **({} if facts is None else facts.model_dump()),
        )
    return fault


def _told(settings: ServiceSettings) -> str:
    policy = "" if settings.policy is None else str(settings.policy.resolve())
    aligned = "" if settings.models else str(settings.offered["miniature"])
    command = [sys.executable, "-m", "mithridate.service.worker.policy_preparation", policy, aligned]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"it ended with status {done.returncode}"]
        raise ServiceError(f"the policy cannot act: {lines[-1]}")
    return done.stdout.strip().splitlines()[-1]


def main(policy: str, aligned: str) -> int:
    """Prepare, print the facts and return the exit status."""
    try:
        if aligned and not Path(aligned).is_dir():
            from mithridate.provider.aligning import align

            align("miniature:base", policy or None, out=aligned)
        print(facts_of(Path(policy) if policy else None).model_dump_json())
    except MithridateError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
