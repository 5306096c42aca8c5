"""Imports an export: each file and each job once, however often it is run."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import select

from mithridate.files import file_hash
from mithridate.service.blob_store import PIECE
from mithridate.service.contract.api_refusal import ApiRefusal
from mithridate.service.contract.job_objects import JobRequest
from mithridate.service.contract.object_ids import new_id
from mithridate.service.database.tables import FILES, JOBS
from mithridate.service.importing.exported import Exported
from mithridate.service.importing.job_records import CannotMap, MappedJob, mapped
from mithridate.service.jobs.job_creation import Asking, create_job
from mithridate.service.jobs.job_lookup import job_row
from mithridate.service.keys.api_keys import Caller
from mithridate.service.policy_facts import PolicyFacts, policy_facts
from mithridate.service.service_parts import ServiceParts
from mithridate.service.uploaded_files import take_in, unexpired

_OVER = frozenset({"failed", "cancelled"})


class ImportLine(NamedTuple):
    """What became of one thing.

    Attributes:
        what: The file or the job, as the export names it.
        became: Its id here; None where it was refused or skipped.
        notes: What is to be said of it.
        refused: Whether somebody has to do something about it.
    """

    what: str
    became: str | None
    notes: list[str]
    refused: bool = False


class Importer:
    """Makes files and jobs of an export.

    Args:
        parts: The service.
        caller: For whom.
        models: Names of models here by their names there; ``*`` stands for any other that was not tuned there.
        all_states: Whether also jobs are made that failed or were cancelled there.
    """

    def __init__(self, parts: ServiceParts, caller: Caller, models: dict[str, str], *, all_states: bool = False):
        self._parts, self._caller, self._models, self._all = parts, caller, models, all_states

    def run(self, exported: Exported) -> Iterator[ImportLine]:
        """Import everything, and tell of each thing once it is done.

        Raises:
            ApiRefusal: If the service takes no jobs at all.
        """
        with self._parts.database.read() as connection:
            facts = policy_facts(connection)
        files: dict[Path, str] = {}
        for path in exported.files:
            line = self._file(path)
            if line.became is not None and not line.refused:
                files[path] = line.became
            yield line
        for record in exported.jobs:
            yield self._job(record, exported, files, facts)

    def _file(self, path: Path) -> ImportLine:
        sha256 = file_hash(path)
        same = (FILES.c.project_id == self._caller.project) & (FILES.c.sha256 == sha256) & unexpired()
        with self._parts.database.read() as connection:
            query = select(FILES).where(same, FILES.c.purpose == "fine-tune").order_by(FILES.c.seq).limit(1)
            row = connection.execute(query).one_or_none()
        notes = ["is there already"] if row is not None else []
        if row is None:
            try:
                row = self._taken(path)
            except ApiRefusal as refusal:
                return ImportLine(path.name, None, [refusal.message], refused=True)
        if row.status == "error":
            return ImportLine(path.name, row.id, [*notes, f"cannot be trained on: {row.status_details}"], refused=True)
        return ImportLine(path.name, row.id, notes)

    def _taken(self, path: Path) -> Any:
        with self._parts.blobs.begin(new_id("file")) as blob, path.open("rb") as file:
            while piece := file.read(PIECE):
                blob.write(piece)
            return take_in(self._parts, self._caller, blob, path.name, None)

    def _job(
        self, record: dict[str, Any], exported: Exported, files: dict[Path, str], facts: PolicyFacts
    ) -> ImportLine:
        name, key = record["id"], f"import-{record['id']}"
        query = select(JOBS.c.id).where(JOBS.c.project_id == self._caller.project, JOBS.c.idempotency_key == key)
        with self._parts.database.read() as connection:
            before = connection.execute(query).scalar_one_or_none()
        if before is not None:
            return ImportLine(name, before, ["is there already"])
        status = str(record.get("status"))  # a damaged record may hold anything
        if status in _OVER and not self._all:
            verb = "has" if status == "failed" else "was"
            return ImportLine(name, None, [f"skipped: it {verb} {status} there; import it with --all"])
        try:
            asked = mapped(record, self._models, facts)
            request = asked.request.model_copy(update=self._ids(asked.request, exported, files))
            return self._made(name, asked, Asking(self._caller, request, key, 0), facts)
        except (CannotMap, ApiRefusal) as refusal:
            return ImportLine(name, None, [str(refusal)], refused=True)

    def _made(self, name: str, asked: MappedJob, asking: Asking, facts: PolicyFacts) -> ImportLine:
        parts = self._parts
        if asking.request.model not in parts.settings.offered:
            offered = ", ".join(sorted(parts.settings.offered))
            raise CannotMap(f"there is no model '{asking.request.model[:80]}' to tune; there are: {offered}")
        with parts.database.write() as connection:
            # Without a limit of unfinished jobs: the operator does this on purpose.
            job, _ = create_job(connection, asking, facts, sys.maxsize)
            row = job_row(connection, self._caller.project, job)
            hashes = {"training": row.training_sha256, "validation": row.validation_sha256}
            parts.audit.add(
                connection, self._caller.key, "job.import", job, policy=facts.sha256, imported=name, **hashes
            )
        return ImportLine(name, job, asked.notes)

    def _ids(self, request: JobRequest, exported: Exported, files: dict[Path, str]) -> dict[str, str]:
        """Return the files' ids here."""
        given = {"training_file": request.training_file, "validation_file": request.validation_file}
        return {
            param: self._id(param, old, exported, files) for param, old in given.items() if old is not None
        }  # fmt: skip

    def _id(self, param: str, old: str, exported: Exported, files: dict[Path, str]) -> str:
        """Return a file's id here: the file is named by its old id, or as the export's file record says.

        Raises:
            CannotMap: If there is none, or more than one that differ.
        """
        wanted = {f"{old}.jsonl", exported.names.get(old, "")}
        found = [path for path in exported.files if path.name in wanted]
        ids = {files[path] for path in found if path in files}
        if len(ids) == 1 and len(found) == sum(path in files for path in found):
            return ids.pop()
        if not found:
            said = f"there is no file for it; save the content of {old[:80]} as {old[:80]}.jsonl"
        elif not ids:
            said = f"{found[0].name} cannot be used, as told above"
        else:
            said = f"{len(found)} files have its name; save the right one as {old[:80]}.jsonl and remove the others"
        raise CannotMap(f"{param} {old[:80]}: {said}")
