"""The process of a job: what it may reach."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mithridate.errors import ServiceError
from mithridate.service.service_settings import ProcessLimits
from mithridate.service.worker import confinement
from mithridate.service.worker.confinement import available
from mithridate.service.worker.job_process import environment, readable

needs = pytest.mark.skipif(not available(), reason="this kernel has no Landlock")

PROBE = """
import socket, sys
from pathlib import Path
from mithridate.service.worker.confinement import confine
own, model, other, database, port = sys.argv[1:]
confine(Path(own), [Path(model), *map(Path, sys.path), Path(sys.prefix), Path(sys.base_prefix)], network=False)
(Path(own) / "made").write_text("x")
print("model", Path(model, "w").read_text())
def tried(name, what):
    try:
        what()
    except OSError as error:
        print(name, "denied")
    else:
        print(name, "ALLOWED")
tried("other", lambda: Path(other, "rows.jsonl").read_text())
tried("list", lambda: list(Path(other).iterdir()))
tried("database", lambda: Path(database).read_bytes())
tried("write database", lambda: open(database, "ab").write(b"x"))
tried("write model", lambda: Path(model, "w").write_text("y"))
tried("make", lambda: Path(other, "new").write_text("y"))
tried("link", lambda: (Path(own) / "link").symlink_to(other) or (Path(own) / "link" / "rows.jsonl").read_text())
tried("environment", lambda: Path(f"/proc/{__import__('os').getppid()}/environ").read_bytes())
tried("network", lambda: socket.create_connection(("127.0.0.1", int(port)), timeout=2))
tried("name", lambda: socket.create_connection(("example.org", 80), timeout=2))
import subprocess
def child():
    if subprocess.run(["cat", database], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL).returncode:
        raise OSError
tried("child", child)
"""


@needs
def test_a_confined_process_reaches_its_own_folder_and_nothing_else(tmp_path):
    import socket
    import tempfile

    # Not in memory: devices are open to a job, and /dev/shm with them.
    with tempfile.TemporaryDirectory() as base, socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        folders = {name: Path(base) / name for name in ("own", "model", "other")}
        for folder in folders.values():
            folder.mkdir()
        (folders["model"] / "w").write_text("weights")
        (folders["other"] / "rows.jsonl").write_text("secret")
        (Path(base) / "service.db").write_text("secret")
        done = subprocess.run(
            [sys.executable, "-c", PROBE, *map(str, folders.values()), str(Path(base) / "service.db"),
             str(listening.getsockname()[1])],
            capture_output=True, text=True, timeout=60, env={**os.environ, "SECRET": "x"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        lines = done.stdout.splitlines()
        assert lines[0] == "model weights"
        assert [line for line in lines if "ALLOWED" in line] == []
        assert len(lines) == 12
        assert (Path(base) / "service.db").read_text() == "secret"


def test_a_kernel_that_cannot_confine_is_said_to_be_so(monkeypatch):
    monkeypatch.setattr(confinement, "_version", lambda: -1)
    assert not confinement.available()
    with pytest.raises(ServiceError, match="cannot confine"):
        confinement.confine(Path(), [], network=True)


def test_a_job_knows_no_secret_of_the_service(tmp_path):
    own = {
        "PATH": "/bin", "DATABASE_URL": "postgresql://u:secret@h/d", "AWS_SECRET_ACCESS_KEY": "secret",
        "OPENAI_API_KEY": "secret", "JUDGE_KEY": "given", "MITHRIDATE_DATA": "/data",
    }  # fmt: skip
    found = environment(own, tmp_path, ProcessLimits(environment=["JUDGE_KEY", "MISSING"]))
    assert "secret" not in str(found)
    assert (found["JUDGE_KEY"], found["HF_HUB_OFFLINE"], found["MITHRIDATE_DATA"]) == ("given", "1", "/data")
    assert found["TMPDIR"].startswith(str(tmp_path))
    assert "HF_HUB_OFFLINE" not in environment(own, tmp_path, ProcessLimits(network=True))


def test_the_folders_a_job_reads_hold_no_other_job(tmp_path):
    found = readable(tmp_path / "aligned", tmp_path / "policy" / "policy.yaml")
    assert str(tmp_path / "aligned") in found
    assert str(tmp_path / "policy") in found
    assert str(tmp_path) not in found
