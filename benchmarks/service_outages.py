"""Kills PostgreSQL under the service, over and over, while jobs are created and run.

    python -m benchmarks.service_outages --jobs 200

The server is away for up to two seconds every five to forty. OpenAI's client creates the jobs and asks after them with
its own retries; workers run each with a stub that takes two seconds. Then every job must be there once, and done once.
"""

import json
import random
import subprocess
import tempfile
import time
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import openai
from sqlalchemy import func, select

from benchmarks.own_postgres import Outages, own_postgres
from benchmarks.service_processes import ROW, command, opened, serving
from mithridate.service.database.tables import EVENTS, JOBS, MODELS
from mithridate.service.jobs.job_states import TERMINAL
from mithridate.service.service_parts import ServiceParts

PATIENCE = 60  # retries of the client, at most eight seconds apart


def outages(
    folder: Path, jobs: int, workers: int, seconds: float, every: tuple[float, float], away: tuple[float, float]
) -> dict[str, Any]:
    """Create and run jobs over a database that comes and goes.

    Args:
        folder: An empty folder.
        jobs: How many.
        workers: Processes that run them.
        seconds: What a job takes.
        every: Least and greatest time in seconds that the database runs.
        away: Least and greatest time in seconds that it is away.

    Returns:
        What became of the jobs.
    """
    with own_postgres() as postgres:
        parts, key = opened(folder, database=postgres.create("service"), leases={"poll": 0.2, "beat": 1, "patience": 5})
        told = _run(parts, key, jobs, workers, seconds, Outages(postgres, random.Random(jobs), every, away))
        return told | _found(parts, told.pop("names"))


def _run(
    parts: ServiceParts, key: str, jobs: int, workers: int, seconds: float, disturbance: Outages
) -> dict[str, Any]:
    folder, began = parts.settings.folder, time.monotonic()
    line = command("work", folder, "--seconds", str(seconds))
    with serving("serve", folder) as (url, _):
        working = [subprocess.Popen(line) for _ in range(workers)]
        client = openai.OpenAI(api_key=key, base_url=f"{url}/v1", max_retries=PATIENCE, timeout=10)
        try:
            with disturbance:
                names = [_created(client, number) for number in range(jobs)]
                for name in names:
                    while client.fine_tuning.jobs.retrieve(name).status not in TERMINAL:
                        if all(worker.poll() is not None for worker in working):
                            raise SystemExit("every worker has ended, so no job will; their errors stand above")
                        time.sleep(0.2)
            seconds = time.monotonic() - began
        finally:
            for worker in working:
                worker.terminate()
            for worker in working:
                worker.wait()
    return {"names": names, "outages": disturbance.count, "seconds": round(seconds, 1)}


def _created(client: openai.OpenAI, number: int) -> str:
    """Upload a file of its own, so that no create is a repeat of another, and create a job."""
    rows = ROW * 12 + ROW.replace(b'"b"', b'"%d"' % number)
    file = client.files.create(file=("rows.jsonl", rows), purpose="fine-tune")
    return client.fine_tuning.jobs.create(model="miniature", training_file=file.id).id


def _found(parts: ServiceParts, names: list[str]) -> dict[str, Any]:
    with parts.database.read() as connection:
        rows = connection.execute(select(JOBS.c.id, JOBS.c.state, JOBS.c.attempts)).all()
        models = connection.execute(select(func.count()).select_from(MODELS)).scalar_one()
        ends = connection.execute(
            select(EVENTS.c.job_id).where(EVENTS.c.message == "The job has successfully completed")
        ).scalars()
        done = Counter(ends)
    return {
        "jobs": len(names),
        "lost": len({*names} - {row.id for row in rows if row.state == "succeeded"}),
        "made_twice": len(rows) - len({*names}),
        "done_twice": sum(count > 1 for count in done.values()),
        "models": models,
        "states": dict(Counter(row.state for row in rows)),
        "attempts": dict(Counter(row.attempts for row in rows)),
        "audit_entries": parts.audit.verify(parts.database),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Disturb, and print JSON."""
    parser = ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2, help="that a job takes")
    parser.add_argument("--every", type=float, nargs=2, default=(5, 40), help="seconds between two outages")
    parser.add_argument("--away", type=float, nargs=2, default=(0, 2), help="seconds of an outage")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as made:
        found = outages(
            Path(made) / "service",
            options.jobs,
            options.workers,
            options.seconds,
            tuple(options.every),
            tuple(options.away),
        )
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
