"""The process of a job: what it may reach."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import yaml
from sqlalchemy import select, update

from mithridate.errors import ServiceError
from mithridate.provider.policy_file import default_text
from mithridate.service.database.tables import JOBS
from mithridate.service.policy_facts import POLICY, report
from mithridate.service.service_settings import ProcessLimits
from mithridate.service.worker import confinement
from mithridate.service.worker.confinement import available
from mithridate.service.worker.job_order import ORDER
from mithridate.service.worker.job_process import environment, readable
from mithridate.service.worker.policy_preparation import facts_of
from tests.service.conftest import FACTS, make_parts, work
from tests.service.test_leases import add, project

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


BESIDE = """
import sys
from pathlib import Path
from mithridate.service.worker.confinement import confine
from mithridate.service.worker.job_process import readable
base = Path(sys.argv[1])
own = base / "service" / "jobs" / "one"
confine(own, [Path(one) for one in readable(base / "service" / "aligned", base / "policy.yaml")], network=True)
for name in ("policy.yaml", "service/aligned/w", "service/jobs/one/rows", "service/first-key", "service/jobs/two/rows"):
    try:
        print(name, (base / name).read_text())
    except OSError as error:
        print(name, "denied")
"""


@needs
def test_a_confined_job_reads_its_policy_and_not_the_service_beside_it():
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder).resolve()
        for name in ("policy.yaml", "service/aligned/w", "service/jobs/one/rows", "service/first-key",
                     "service/jobs/two/rows"):  # fmt: skip
            (base / name).parent.mkdir(parents=True, exist_ok=True)
            (base / name).write_text("read")
        done = subprocess.run([sys.executable, "-c", BESIDE, str(base)], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert [line.split()[1] for line in done.stdout.splitlines()] == ["read", "read", "read", "denied", "denied"]


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


def test_what_a_job_reads_holds_no_other_job_and_nothing_beside_the_policy(tmp_path):
    policy = tmp_path / "policy" / "policy.yaml"
    found = readable(tmp_path / "aligned", policy)
    assert {str(tmp_path / "aligned"), str(policy)} <= set(found)
    assert not {str(tmp_path), str(policy.parent)} & set(found)


@pytest.mark.parametrize("beside", ["policy", "model", "named", "storage", "database"])
def test_a_job_that_could_read_the_service_is_not_run(tmp_path, beside):
    """The service's folder beside the policy is safe; a model, or a file of the policy, that holds it is not."""
    inner, model = tmp_path / "shop", tmp_path / "model"
    for folder in (inner, model):
        folder.mkdir()
    (inner / "policy.yaml").write_text("name: shop")
    given = {
        "policy": {"policy": inner / "policy.yaml"},
        "model": {"models": {"miniature": str(inner)}},
        "named": {},
        "storage": {"storage": str(model / "files"), "models": {"miniature": str(model)}},
        "database": {"database": f"sqlite:///{model}/one.db", "models": {"miniature": str(model)}},
    }[beside]
    parts = make_parts(inner / "service", process={"sandbox": "required"}, **given)
    if beside == "named":
        with parts.database.write() as connection:
            report(connection, POLICY, facts=FACTS.model_dump() | {"reads": [str(inner)]})
    with parts.database.write() as connection:
        project(connection)
        name = add(connection)
        with parts.blobs.begin("file-x") as blob:
            blob.write(b"{}")
            parts.blobs.keep(blob, "file-x")
        method = {
            "type": "supervised",
            "supervised": {"hyperparameters": {"n_epochs": 1, "learning_rate_multiplier": 1}},
        }
        connection.execute(update(JOBS).values(training_sha256=blob.sha256, model="miniature", method=method))
    work(parts)
    with parts.database.read() as connection:
        row = connection.execute(select(JOBS)).one()
    code = (row.error or {}).get("code")
    assert (code == "sandbox_unavailable") == (beside != "policy"), row.error
    assert (parts.settings.jobs_folder / name / ORDER).is_file() == (beside == "policy")


def test_a_job_reads_the_files_that_its_policy_names_and_not_a_folder_called_like_it(tmp_path, monkeypatch):
    from mithridate.provider import policy_check

    monkeypatch.setattr(policy_check, "check_policy", lambda *_: None)
    tree = yaml.safe_load(default_text())
    tree["name"], tree["streams"]["safe"] = "service", "tea.jsonl"
    (tmp_path / "policy.yaml").write_text(yaml.safe_dump(tree))
    (tmp_path / "service").mkdir()
    (tmp_path / "tea.jsonl").write_text("{}")
    assert facts_of(tmp_path / "policy.yaml").reads == [str((tmp_path / "tea.jsonl").resolve())]
