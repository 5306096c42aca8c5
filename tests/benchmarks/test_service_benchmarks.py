"""The benchmarks of the service: their stub leaves what a job leaves, and jobs that failed give no figure."""

import subprocess

import pytest
from benchmarks.service_load import queue
from benchmarks.service_processes import STUB

from mithridate.provider.judged_files import compare_files
from mithridate.service.worker.job_order import JobOutcome


def test_the_stub_leaves_what_a_released_job_leaves(tmp_path):
    subprocess.run([*STUB, "0", str(tmp_path)], check=True)
    outcome = JobOutcome.model_validate_json((tmp_path / "outcome.json").read_bytes())
    assert outcome.outcome == "released"
    compare_files(tmp_path / "out/model", outcome.files)


@pytest.mark.slow
def test_a_queue_is_emptied_and_jobs_that_fail_are_no_figure(tmp_path, monkeypatch):
    found = queue(tmp_path / "sound", 3, 2)
    assert (found["jobs"], found["run_twice"]) == (3, 0)
    monkeypatch.setattr("benchmarks.service_load.command", lambda *of: ["true"])  # workers that do nothing
    with pytest.raises(SystemExit, match="1 of 1 jobs did not succeed"):
        queue(tmp_path / "idle", 1, 1)
