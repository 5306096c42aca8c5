"""Keeps the results of stages under the hash of what produced them."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout
from pydantic import ValidationError

from mithridate.errors import CheckpointError, UsageError
from mithridate.experiment.disk import plain_disk_errors
from mithridate.experiment.jobs import StageNode
from mithridate.experiment.stage_records import (
    CandidateRecord,
    EvaluationRecord,
    RepairRecord,
    StageRecord,
    TrainingRecord,
)
from mithridate.files import write_json
from mithridate.training.state import seal, verify

RESULT = "result.json"

Record = TypeVar("Record", TrainingRecord, RepairRecord, CandidateRecord, EvaluationRecord)


def key_of(identity: dict[str, Any]) -> str:
    """Return the hash of what decides a result: SHA-256 of its canonical JSON, 20 hexadecimal digits."""
    # 80 bits: no two results meet by chance, and a folder's name stays readable.
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:20]


class Store:
    """A folder of finished stages, ``<stage>-<key>``, each sealed by a list of its files' hashes.

    A stage works in ``<stage>-<key>.part``, where an interrupted run resumes it; the folder is renamed when done. The
    hashes of a stage are compared once, when the store first meets it: hashing models is most of the work of a run that
    finds everything done.

    Args:
        folder: Where it lies; created on first use.
    """

    def __init__(self, folder: Path) -> None:
        # Absolute: a worker on another machine stands in another folder.
        self.folder = folder.absolute()
        self._verified: set[str] = set()

    def path(self, node: StageNode) -> Path:
        """Return the folder of a stage's result."""
        return self.folder / f"{node.stage}-{node.key}"

    def working(self, node: StageNode) -> Path:
        """Return the folder in which a stage works until it is finished."""
        final = self.path(node)
        return final.with_name(final.name + ".part")

    def has(self, node: StageNode) -> bool:
        """Tell whether a stage is finished and intact.

        Raises:
            CheckpointError: If one of its files was altered, cut or removed.
        """
        # Refused, not silently made again: what was altered may stand behind results that were already shown.
        folder = self.path(node)
        if node.key not in self._verified:
            if not folder.is_dir():
                return False
            try:
                verify(folder)
            except CheckpointError as error:
                raise CheckpointError(f"a stored stage is damaged: {error}; {_remade(folder)}") from error
            self._verified.add(node.key)
        return True

    def record(self, node: StageNode, kind: type[Record]) -> Record:
        """Return what a finished stage found.

        Args:
            node: The stage.
            kind: The record of this kind of stage.

        Raises:
            CheckpointError: If the stage is not finished or is damaged.
        """
        path = self.path(node) / RESULT
        if not self.has(node):
            raise CheckpointError(f"{self.path(node)} is missing; run the same command again")
        try:
            record: Record = kind.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise CheckpointError(f"{path} does not hold this stage's record; {_remade(path.parent)}") from error
        return record

    def make(self, node: StageNode, work: Callable[[Path], StageRecord]) -> None:
        """Do a stage's work once and record its result.

        Args:
            node: The stage.
            work: Fills a folder and returns the record; the folder may hold what an interrupted run left.

        Raises:
            MithridateError: If the disk is full; what is finished is kept.
        """
        if self.has(node):
            return
        final, part = self.path(node), self.working(node)
        with plain_disk_errors(part):
            part.mkdir(parents=True, exist_ok=True)
            record = work(part)
            # Each holds the optimizer's moments, twice the trained weights, and nothing is left to resume.
            for checkpoint in part.glob("checkpoint-*"):
                shutil.rmtree(checkpoint)
            write_json(part / RESULT, record.model_dump(mode="json"))
            # Sealed and renamed last: a kill at any moment leaves a .part or a whole stage.
            seal(part)
            part.rename(final)
        self._verified.add(node.key)

    def size(self) -> int:
        """Return the bytes of all files in the store."""
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep a second run out of the store.

        Raises:
            UsageError: If another run holds it.
        """
        with plain_disk_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            # A lock of the operating system, which goes with its process; a mere file would outlive a kill.
            lock = FileLock(self.folder / "lock", blocking=False)
            try:
                lock.acquire()
            except Timeout as error:
                raise UsageError(f"another run uses {self.folder}; wait for it or give another --out") from error
        # Outside the block above: errors of the run itself are not errors of this lock's folder.
        try:
            yield
        finally:
            lock.release()


def _remade(folder: Path) -> str:
    return f"delete {folder} and run the same command again to redo it"
