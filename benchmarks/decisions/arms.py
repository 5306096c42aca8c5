"""One customer's uploads through the pipeline, whole and without one part or another.

Every arm is a call of `mithridate.tune` under a policy; arms of one upload share its folder, and so its stages.
"""

import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import mithridate as mi
from benchmarks.decisions.uploads import Sent
from mithridate.errors import DataError
from mithridate.experiment.jobs import StageNode
from mithridate.experiment.monitor import Monitor
from mithridate.provider.decision import DECISION, Decision
from mithridate.provider.hand_over import MODEL

Tree = dict[str, Any]


class Arm(NamedTuple):
    """One way to decide.

    Attributes:
        gate: Whether uploads are screened.
        judged: Whether models are judged before they leave; without it the first rung's model leaves.
        defended: Whether the policy's defenses and ladder are used; without them there is plain fine-tuning.
    """

    gate: bool = True
    judged: bool = True
    defended: bool = True


ARMS = {
    "everything": Arm(),
    "without the upload gate": Arm(gate=False),
    "without the release gate": Arm(judged=False),
    "without defense": Arm(defended=False),
    "nothing": Arm(gate=False, judged=False, defended=False),
}


class Went(NamedTuple):
    """What became of one file under one arm.

    Attributes:
        outcome: As in a decision.
        left: Folder of the model that left; None where none did.
        model: Folder of the model that the first rung made, whether or not it left; None where none was made.
        decision: The decision, where there is one.
    """

    outcome: str
    left: Path | None
    model: Path | None
    decision: Tree | None


class Clock(Monitor):
    """Remembers the stages of a call and the seconds of those that were done in it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.nodes: list[StageNode] = []
        self.planned_at: float | None = None
        self._began: dict[str, float] = {}

    def planned(self, nodes: Sequence[StageNode], jobs: int) -> None:
        """Remember the stages, and when gate and self-tests were done."""
        self.nodes, self.planned_at = list(nodes), time.perf_counter()

    def started(self, node: StageNode) -> None:
        """Start a stage's time."""
        self._began[node.key] = time.perf_counter()

    def finished(self, node: StageNode) -> None:
        """Add a stage's time."""
        self.seconds[node.label] = self.seconds.get(node.label, 0.0) + time.perf_counter() - self._began[node.key]

    def failed(self, node: StageNode, reason: str) -> None:
        """Count it as well."""
        self.finished(node)


def policy_of(arm: Arm, policy: Tree) -> Tree:
    """Return the policy that an arm's call is made under; what is not judged is decided by `went`."""
    tree: Tree = json.loads(json.dumps(policy))
    if not arm.gate:
        tree["gate"] = "none"
    if not arm.defended:
        tree["finetuning"] |= {"defense": "sft", "suspected": None}
        tree["ladder"] = [{"name": "plain fine-tuning"}]
    return tree


def went(arm: Arm, policy: Tree, model: Path, aligned: Path, sent: Sent, out: Path) -> tuple[Went, Tree]:
    """Send one file through one arm.

    Args:
        arm: The arm.
        policy: The provider's policy.
        model: The model to tune, which may be one that an earlier call released.
        aligned: The provider's aligned model.
        sent: The file.
        out: Folder whose stages the arms share.

    Returns:
        What became of it, and the seconds it took.
    """
    out.mkdir(parents=True, exist_ok=True)
    upload = out / "upload.jsonl"
    upload.write_text("".join(json.dumps(row) + "\n" for row in sent.rows), encoding="utf-8")
    for left in (MODEL, DECISION):  # another arm's
        path = out / left
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    clock, start = Clock(), time.perf_counter()
    try:
        made = mi.tune(
            str(model), upload, policy_of(arm, policy), out=out, monitor=clock, **_again(model, aligned), **sent.asks
        )
    except DataError as error:
        return Went(f"refused at upload: {error}", None, None, None), {}
    seconds = {"total": time.perf_counter() - start, "before stages": (clock.planned_at or time.perf_counter()) - start}
    first = _candidate(out, clock, policy_of(arm, policy)["ladder"][0]["name"])
    outcome, left = made.outcome, None
    if not arm.judged and made.outcome == "refused_at_release":
        outcome, left = "released", first
    elif made.outcome == "released":
        left = first if not arm.judged else _candidate(out, clock, str(made.released))
    return Went(outcome, left, first, _told(made)), {**seconds, "stages": clock.seconds}


def _again(model: Path, aligned: Path) -> Tree:
    """Name the aligned model behind one that was released; what leaves unjudged stands for itself."""
    return {"aligned": str(aligned)} if (model.parent / DECISION).is_file() else {}


def _candidate(out: Path, clock: Clock, rung: str) -> Path | None:
    found = next((node for node in clock.nodes if node.label == f"{rung} · candidate"), None)
    return None if found is None else out / "work" / f"candidate-{found.key}" / "model"


def _told(made: Decision) -> Tree:
    tree = made.comparable
    if tree["gate"] is not None:
        tree["gate"].pop("findings")
    return tree
