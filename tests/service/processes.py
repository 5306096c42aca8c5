"""A worker or a server in a process of its own; imports little, since tests start many of them."""

import sys
from pathlib import Path

from mithridate.service.service_parts import ServiceParts
from mithridate.service.service_settings import ServiceSettings
from mithridate.service.worker.worker_loop import JobWorker

FAKE = (sys.executable, str(Path(__file__).parent / "fake_pipeline.py"))
QUICK = {"poll": 0.05, "beat": 0.2, "patience": 1, "grace": 1}


def main(what, folder, port="0"):
    tree = {"folder": folder, "leases": QUICK, "uses": {"active_jobs": 10_000}}
    parts = ServiceParts.open(ServiceSettings.model_validate(tree))
    if what == "worker":
        JobWorker(parts, FAKE).work()
    else:
        import uvicorn

        from mithridate.service.routes.service_app import make_app

        uvicorn.run(make_app(parts), port=int(port), log_config=None)


if __name__ == "__main__":
    main(*sys.argv[1:])
