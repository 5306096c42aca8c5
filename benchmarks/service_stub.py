"""Stands for the pipeline where the service is measured, and notes each time it is run; imports next to nothing.

python service_stub.py SECONDS FOLDER
"""

import hashlib
import json
import sys
import time
from pathlib import Path

SECONDS, FOLDER = float(sys.argv[1]), Path(sys.argv[2])


def main() -> None:
    """Leave what a released job leaves."""
    with (FOLDER / "runs").open("a") as runs:
        runs.write("run\n")
    time.sleep(SECONDS)
    model = FOLDER / "out" / "model"
    model.mkdir(parents=True, exist_ok=True)
    (model / "model.safetensors").write_bytes(b"weights")
    (FOLDER / "progress.jsonl").write_text('{"kind": "validated"}\n')
    outcome = {
        "outcome": "released",
        "reasons": [],
        "released": "as tuned",
        "policy": {"name": "none", "sha256": ""},
        "files": {"model.safetensors": hashlib.sha256(b"weights").hexdigest()},
        "findings": [],
        "flagged": 0,
        "trained_tokens": 1,
        "steps": [],
    }
    (FOLDER / "outcome.json").write_text(json.dumps(outcome))


if __name__ == "__main__":
    main()
