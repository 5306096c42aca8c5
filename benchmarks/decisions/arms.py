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
from mithridate.experiment.jobs import StageNode
from mithridate.experiment.monitor import Monitor
from mithridate.experiment.row_files import RowFiles
from mithridate.files import file_hash
from mithridate.gates.upload_verdict import UploadDecision
from mithridate.models.loading import Where, load_served
from mithridate.provider.decision import DECISION, Decision
from mithridate.provider.given_upload import read_upload
from mithridate.provider.judged_files import MODEL
from mithridate.provider.policy_file import make_policy
from mithridate.provider.policy_jobs import PolicyJobs
from mithridate.provider.policy_rows import PolicyRows
from mithridate.provider.refused_upload import RefusedUpload
from mithridate.provider.screening import screened

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


class Customer:
    """Sends one customer's files through every arm.

    Calls that differ in nothing are made once: what the upload gate says of a file does not depend on the arm.

    Args:
        policy: The provider's policy.
        aligned: The provider's aligned model.
        files: The files, in order.
        folder: Folder of the calls; those of one file and model share their stages.
    """

    def __init__(self, policy: Tree, aligned: Path, files: Sequence[Sent], folder: Path) -> None:
        self._policy, self._aligned, self._files, self._folder = policy, aligned, files, folder
        self._made: dict[str, tuple[Went, Tree]] = {}
        self._refuses: dict[int, bool] = {}

    def rounds(self, arm: Arm) -> list[tuple[Went, Tree]]:
        """Return what became of each file under an arm, with the seconds it took; a refusal ends them."""
        model, found = self._aligned, []
        for number in range(len(self._files)):
            found.append(self._went(arm, model, number))
            left = found[-1][0].left
            if left is None:
                break
            model = left
        return found

    def _went(self, arm: Arm, model: Path, number: int) -> tuple[Went, Tree]:
        if arm == Arm():
            what, seconds = self._called(arm, model, number)
            self._refuses[number] = what.outcome == "refused_at_upload"
            return what, seconds
        if arm.gate and self._refused(number):
            return Went("refused_at_upload", None, None, None), {}
        what, seconds = self._called(arm._replace(gate=False, judged=True), model, number)
        if not arm.judged and what.outcome == "refused_at_release":
            what = what._replace(outcome="released", left=what.model)
        elif not arm.judged and what.left is not None:
            what = what._replace(left=what.model)  # the first rung's, whichever was the one that passed
        return what, seconds

    def _refused(self, number: int) -> bool:
        if number not in self._refuses:  # a file that the whole pipeline never came to
            self._refuses[number] = refuses(self._policy, self._aligned, self._files[number], self._folder / "gate")
        return self._refuses[number]

    def _called(self, arm: Arm, model: Path, number: int) -> tuple[Went, Tree]:
        shared = self._folder / f"file-{number}" / file_hash(model / "model.safetensors")[:12]
        key = f"{arm} {shared}"
        if key not in self._made:
            kept = shared / f"job-{len(self._made)}"
            self._made[key] = called(
                policy_of(arm, self._policy), model, self._aligned, self._files[number], shared, kept
            )
        return self._made[key]


def policy_of(arm: Arm, policy: Tree) -> Tree:
    """Return the policy that an arm's call is made under; whether its model is judged is decided afterwards."""
    tree: Tree = json.loads(json.dumps(policy))
    if not arm.gate:
        tree["gate"] = "none"
    if not arm.defended:
        tree["finetuning"] |= {"defense": "sft", "suspected": None}
        tree["ladder"] = [{"name": "plain fine-tuning"}]
    return tree


def called(policy: Tree, model: Path, aligned: Path, sent: Sent, out: Path, kept: Path) -> tuple[Went, Tree]:
    """Call `mithridate.tune` once.

    Args:
        policy: The policy.
        model: The model to tune: the aligned one, or one that left earlier.
        aligned: The provider's aligned model.
        sent: The file.
        out: Folder whose stages several calls share.
        kept: Where what was released is kept with its decision, as the customer has it.

    Returns:
        What became of it, and the seconds it took.
    """
    upload = write(sent, out)
    for name in (MODEL, DECISION):  # another call's
        path = out / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    # What left unjudged has no decision, and stands for itself.
    again = str(aligned) if (model.parent / DECISION).is_file() else None
    clock, start = Clock(), time.perf_counter()
    made = mi.tune(
        str(model),
        upload,
        policy,
        out=out,
        monitor=clock,
        aligned=again,
        epochs=sent.asks.get("epochs"),
        learning_rate=sent.asks.get("learning_rate"),
    )
    seconds = {"total": time.perf_counter() - start, "before stages": (clock.planned_at or time.perf_counter()) - start}
    first, left = _candidate(out, clock, policy["ladder"][0]["name"]), None
    if made.outcome == "released":
        kept.mkdir(parents=True)
        shutil.copytree(out / MODEL, kept / MODEL)
        shutil.copy(out / DECISION, kept / DECISION)
        left = kept / MODEL
    return Went(made.outcome, left, first, _told(made)), {**seconds, "stages": clock.seconds}


def write(sent: Sent, folder: Path) -> Path:
    """Write a customer's file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "upload.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in sent.rows), encoding="utf-8")
    return path


def refuses(policy: Tree, aligned: Path, sent: Sent, folder: Path) -> bool:
    """Tell whether the upload gate alone refuses a file."""
    checked = make_policy(policy)
    assert checked.gate != "none"
    files = RowFiles(Path(), folder)
    jobs = PolicyJobs(checked, PolicyRows(checked, Path(), folder), str(aligned))
    epochs = sent.asks.get("epochs", checked.finetuning.training.epochs)
    given = read_upload(checked, write(sent, folder), jobs.rows, files, load_served(Where(str(aligned), None), None))
    if isinstance(given, RefusedUpload):
        return True
    found = screened(jobs, checked.gate, files, given, epochs, folder)
    return found.verdict.decision is UploadDecision.REFUSE


def _candidate(out: Path, clock: Clock, rung: str) -> Path | None:
    found = next((node for node in clock.nodes if node.label == f"{rung} · candidate"), None)
    folder = None if found is None else out / "work" / f"candidate-{found.key}" / "model"
    return folder if folder is not None and folder.is_dir() else None


def _told(made: Decision) -> Tree:
    tree = made.comparable
    if tree["gate"] is not None:
        tree["gate"].pop("findings")
    return tree
