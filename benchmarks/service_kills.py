"""Kills workers of the service with SIGKILL at random moments of real jobs of the miniature.

    python -m benchmarks.service_kills --points 20 --out build/service-kills

Each point is a job of its own: its worker is killed, another one takes the job over under the usual leases (a beat
every 10 s, patience of 30 s) and goes on. The released bytes must be those of a job that nobody killed. Results are
written after every point; the same call goes on with the next.
"""

import json
import random
import subprocess
import time
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import openai
from sqlalchemy import select

from benchmarks.service_processes import command, opened, serving, settings_of
from mithridate.service.database.tables import JOBS, MODELS
from mithridate.service.jobs.job_states import TERMINAL
from mithridate.service.service_parts import ServiceParts

_LONGEST = 1800  # seconds that anything may take


def kills(folder: Path, points: int, seed: int) -> dict[str, Any]:
    """Kill workers at several points.

    Args:
        folder: Where the service lies; of an earlier call, whose points are kept.
        points: How many there are in the end.
        seed: Decides the moments.

    Returns:
        The points, and the seconds of a job that nobody killed.
    """
    kept = folder / "kills.json"
    found = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else _begun(folder)
    upload = (folder / "upload.jsonl").read_bytes()
    with serving("serve", folder / "service") as (url, _):
        service = _Service(folder / "service", openai.OpenAI(api_key=found["key"], base_url=f"{url}/v1"), upload)
        if "files" not in found:
            found["seconds"], found["files"] = service.whole()
        while True:
            kept.write_text(json.dumps(found, indent=1), encoding="utf-8")
            if len(found["points"]) >= points:
                return {name: value for name, value in found.items() if name != "key"}
            draw = random.Random(f"{seed} {len(found['points'])}")
            found["points"].append(service.killed(draw.uniform(0, found["seconds"]), found["files"]))


def _begun(folder: Path) -> dict[str, Any]:
    """Make a service that offers the miniature's aligned model."""
    from benchmarks.kills import prepared
    from mithridate.service.worker.policy_preparation import prepare

    folder.mkdir(parents=True, exist_ok=True)
    asked = prepared(folder)
    parts, key = opened(folder / "service", leases={}, models={"miniature": asked.model})
    if (fault := prepare(parts)) is not None:
        raise SystemExit(f"the service takes no jobs: {fault}")
    return {"key": key, "points": []}


class _Service:
    """A service that runs, whose workers are started and killed here."""

    def __init__(self, folder: Path, client: openai.OpenAI, upload: bytes) -> None:
        self._folder, self._client, self._upload = folder, client, upload
        self._parts = ServiceParts.open(settings_of(folder))

    def whole(self) -> tuple[float, dict[str, str]]:
        """Run a job that nobody kills; return its seconds and the hashes of its model."""
        job, worker = self._created(), self._worker()
        try:
            self._until(lambda: self._row(job).worker is not None)
            began = time.monotonic()
            self._until(lambda: self._row(job).state in TERMINAL)
        finally:
            _ended(worker)
        return round(time.monotonic() - began, 1), self._files(job)

    def killed(self, after: float, wanted: dict[str, str]) -> dict[str, Any]:
        """Kill a job's worker some seconds after it has begun; return what became of the job."""
        job, worker = self._created(), self._worker()
        self._until(lambda: self._row(job).worker is not None)
        time.sleep(after)
        left = self._row(job)
        worker.kill()
        worker.wait()
        killed, taken = time.monotonic(), None
        second = self._worker()
        try:
            if left.state not in TERMINAL:
                self._until(lambda: self._row(job).fence > left.fence and self._row(job).worker is not None)
                taken = round(time.monotonic() - killed, 1)
            self._until(lambda: self._row(job).state in TERMINAL)
        finally:
            _ended(second)
        row = self._row(job)
        return {
            "after": round(after, 1),
            "left": left.state,
            "done": f"{left.steps_done}/{left.steps_total}",
            "retaken_after": taken,
            "state": row.state,
            "attempts": row.attempts,
            "same_bytes": self._files(job) == wanted,
        }

    def _created(self) -> str:
        file = self._client.files.create(file=("rows.jsonl", self._upload), purpose="fine-tune").id
        return self._client.fine_tuning.jobs.create(model="miniature", training_file=file, seed=7).id

    def _worker(self) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(command("work", self._folder, "--real"))

    def _row(self, job: str) -> Any:
        with self._parts.database.read() as connection:
            return connection.execute(select(JOBS).where(JOBS.c.id == job)).one()

    def _files(self, job: str) -> dict[str, str]:
        with self._parts.database.read() as connection:
            found = connection.execute(select(MODELS.c.files).where(MODELS.c.job_id == job)).scalar_one_or_none()
        return found or {}

    def _until(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + _LONGEST
        while not condition():
            if time.monotonic() > end:
                raise SystemExit(f"nothing happened for {_LONGEST} seconds")
            time.sleep(0.1)


def _ended(worker: "subprocess.Popen[bytes]") -> None:
    worker.terminate()
    worker.wait()


def main(arguments: Sequence[str] | None = None) -> None:
    """Kill, and print JSON."""
    parser = ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--points", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="folder of the service and of the results")
    options = parser.parse_args(arguments)
    print(json.dumps(kills(options.out, options.points, options.seed), indent=1))


if __name__ == "__main__":
    main()
