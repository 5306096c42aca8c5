"""What the fine-tuning service stands: a large upload, lists and look-ups among many jobs, a long queue.

    python -m benchmarks.service_load upload --megabytes 512
    python -m benchmarks.service_load requests --jobs 10000              # as fast as four clients can
    python -m benchmarks.service_load requests --jobs 100000 --rate 50   # requests per second of all four
    python -m benchmarks.service_load queue --jobs 1000 --workers 3

Each starts processes of its own in a new folder and prints one JSON object. Requests are set against a bare FastAPI
route in a process of the same kind, so that the figures carry over to other machines.
"""

import json
import platform
import subprocess
import tempfile
import threading
import time
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import psutil
from sqlalchemy import insert, select

from benchmarks.service_processes import ROW, command, opened, serving
from mithridate.service.contract.object_ids import new_id, now
from mithridate.service.database.tables import JOBS, KEYS


def upload(folder: Path, megabytes: int) -> dict[str, Any]:
    """Upload one large file; return its speed, and how far the server's memory rose."""
    _, key = opened(folder)
    rows = megabytes * (1 << 20) // len(ROW)

    def body() -> Iterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n'
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="rows.jsonl"\r\n\r\n'
        for start in range(0, rows, 64):
            yield ROW * min(64, rows - start)
        yield b"\r\n--x--\r\n"

    with serving("serve", folder) as (url, process):
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "multipart/form-data; boundary=x"}
        small = b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n'
        small += (
            b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + ROW * 20 + b"\r\n--x--\r\n"
        )
        httpx.post(f"{url}/v1/files", content=small, headers=headers).raise_for_status()  # loads what it needs once
        before, most, done = process.memory_info().rss, [0], threading.Event()

        def watch() -> None:
            while not done.wait(0.02):
                most[0] = max(most[0], process.memory_info().rss)

        watching = threading.Thread(target=watch)
        watching.start()
        began = time.perf_counter()
        answer = httpx.post(f"{url}/v1/files", content=body(), headers=headers, timeout=600)
        seconds = time.perf_counter() - began
        done.set()
        watching.join()
    answer.raise_for_status()
    assert answer.json()["bytes"] == rows * len(ROW)
    return {
        "bytes": rows * len(ROW),
        "megabytes_per_second": round(rows * len(ROW) / seconds / 1e6, 1),
        "memory_rise_megabytes": round((most[0] - before) / (1 << 20), 1),
    }


def requests(folder: Path, jobs: int, count: int, rate: float | None) -> dict[str, Any]:
    """Measure list and get among many jobs, and a bare route; and what they leave in the server's memory."""
    parts, key = opened(folder)
    with parts.database.write() as connection:
        project = connection.execute(select(KEYS.c.project_id)).scalars().first()
        names = [_job(connection, str(project)) for _ in range(jobs)]
    figures = {}
    with serving("serve", folder) as (url, process):
        middle = names[len(names) // 2]
        paths = {
            "list": "/v1/fine_tuning/jobs?limit=20",
            "list in the middle": f"/v1/fine_tuning/jobs?limit=20&after={middle}",
            "get": f"/v1/fine_tuning/jobs/{middle}",
        }
        for path in paths.values():
            _timed(url + path, key, count // 4, rate)  # loads what it needs once
        before = (process.memory_info().rss, process.num_fds())
        for name, path in paths.items():
            figures[name] = _timed(url + path, key, count, rate, process)
        grown = {
            "requests": len(paths) * count,
            "memory_percent": round(100 * (process.memory_info().rss / before[0] - 1), 1),
            "descriptors": process.num_fds() - before[1],
        }
    with serving("bare", folder) as (url, process):
        _timed(f"{url}/bare", key, count // 4, rate)
        figures["bare route"] = _timed(f"{url}/bare", key, count, rate, process)
    bare = figures["bare route"]
    for figure in figures.values():
        figure["p99_to_bare"] = round(figure["p99_milliseconds"] / bare["p99_milliseconds"], 1)
        figure["processor_to_bare"] = round(figure["processor_milliseconds"] / bare["processor_milliseconds"], 1)
    return {**figures, "grown": grown}


def _job(connection: Any, project: str) -> str:
    name = new_id("job")
    method = {"type": "supervised", "supervised": {"hyperparameters": {}}}
    row: dict[str, Any] = {
        "id": name,
        "project_id": project,
        "model": "miniature",
        "training_file": "file-x",
        "training_sha256": "0",
    }
    row |= {"method": method, "seed": 0, "state": "cancelled", "result_files": [], "created_at": now()}
    connection.execute(insert(JOBS).values(**row, finished_at=now(), body_sha256=name))
    return name


def _timed(
    url: str, key: str, count: int, rate: float | None, process: psutil.Process | None = None
) -> dict[str, float]:
    """Ask by four clients at once, each with a quarter of the requests and of their rate."""
    times: list[float] = []
    used = sum(process.cpu_times()[:2]) if process is not None else 0.0

    def ask() -> None:
        with httpx.Client(headers={"Authorization": f"Bearer {key}"}) as client:
            due = time.perf_counter()
            for _ in range(count // 4):
                if rate is not None:
                    due += 4 / rate
                    time.sleep(max(0.0, due - time.perf_counter()))
                began = time.perf_counter()
                client.get(url).raise_for_status()
                times.append(time.perf_counter() - began)

    asking = [threading.Thread(target=ask) for _ in range(4)]
    began = time.perf_counter()
    for one in asking:
        one.start()
    for one in asking:
        one.join()
    seconds = time.perf_counter() - began
    times.sort()
    used = sum(process.cpu_times()[:2]) - used if process is not None else 0.0
    return {
        "requests_per_second": round(len(times) / seconds, 1),
        "median_milliseconds": round(1000 * times[len(times) // 2], 1),
        "p99_milliseconds": round(1000 * times[int(0.99 * len(times))], 1),
        "processor_milliseconds": round(1000 * used / len(times), 2),
    }


def queue(folder: Path, jobs: int, workers: int) -> dict[str, Any]:
    """Have workers empty a long queue of jobs that do almost nothing.

    Raises:
        SystemExit: If a job did not succeed: what fails at once says nothing of a queue.
    """
    parts, key = opened(folder)
    with serving("serve", folder) as (url, _), httpx.Client(headers={"Authorization": f"Bearer {key}"}) as client:
        file = client.post(f"{url}/v1/files", files={"file": ROW * 20}, data={"purpose": "fine-tune"}).json()["id"]
        body = {"model": "miniature", "training_file": file}
        for _ in range(jobs):
            client.post(f"{url}/v1/fine_tuning/jobs", json=body).raise_for_status()
    began = time.perf_counter()
    working = [subprocess.Popen(command("work", folder, "--until-idle")) for _ in range(workers)]
    for worker in working:
        worker.wait()
    seconds = time.perf_counter() - began
    with parts.database.read() as connection:
        rows = connection.execute(select(JOBS.c.state, JOBS.c.error, JOBS.c.id)).all()
    if failed := [row for row in rows if row.state != "succeeded"]:
        raise SystemExit(f"{len(failed)} of {len(rows)} jobs did not succeed; {failed[0].id}: {failed[0].error}")
    runs = [len((parts.settings.jobs_folder / row.id / "runs").read_text().splitlines()) for row in rows]
    return {
        "jobs": len(rows),
        "run_twice": sum(count > 1 for count in runs),
        "seconds": round(seconds, 1),
        "audit_entries": parts.audit.verify(parts.database),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print JSON."""
    parser = ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", choices=("upload", "requests", "queue"))
    parser.add_argument("--megabytes", type=int, default=512)
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--count", type=int, default=2000, help="requests of each kind")
    parser.add_argument("--rate", type=float, help="requests per second; as many as can be by default")
    parser.add_argument("--folder", type=Path, help="folder of the service; a new one by default")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as made:
        folder = options.folder or Path(made)
        if options.what == "upload":
            figures = upload(folder, options.megabytes)
        elif options.what == "requests":
            figures = requests(folder, options.jobs, options.count, options.rate)
        else:
            figures = queue(folder, options.jobs, options.workers)
    machine = {"cores": psutil.cpu_count(), "python": platform.python_version(), "load": psutil.getloadavg()[0]}
    print(json.dumps({"measured": options.what, "machine": machine, "figures": figures}, indent=1))


if __name__ == "__main__":
    main()
