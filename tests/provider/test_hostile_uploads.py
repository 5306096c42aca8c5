"""Hostile names and contents: nothing leaves its folder, nothing crashes, nothing is rendered."""

import re
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mithridate.cli import check
from mithridate.cli import policy as policy_command
from mithridate.data.row_faults import UNSAFE as UNSAFE_CATEGORIES
from mithridate.errors import DataError, MithridateError
from mithridate.experiment.recipe_parts import TrainingSettings
from mithridate.experiment.row_files import RowFiles, stored_rows
from mithridate.provider.decision import DECISION, Decision, read_decision, write_decision
from mithridate.provider.decision_page import REPORT, write_decision_page
from mithridate.provider.given_upload import GivenUpload, read_upload
from mithridate.provider.policy_file import opened
from mithridate.provider.policy_jobs import PolicyJobs
from mithridate.provider.policy_rows import PolicyRows
from mithridate.provider.refused_upload import RefusedUpload, write_findings
from mithridate.provider.screening import FINDINGS
from mithridate.provider.tuning import tune
from mithridate.provider.tuning_request import TuningRequest
from tests.cli.conftest import Called, call  # noqa: F401  # a fixture
from tests.helpers import tiny
from tests.provider import hostile

Read = Callable[[Path], tuple[GivenUpload | RefusedUpload, Decision]]


@pytest.fixture
def read(policy: dict[str, Any], world: Path, tmp_path: Path) -> Read:
    """Everything that `tune` does with an upload but for gate and training; the policy is read once for all."""
    checked, base = opened(policy)
    folder = tmp_path / "out"
    rows = PolicyRows(checked, base, folder / "inputs")
    files = RowFiles(base, folder / "inputs")
    jobs = PolicyJobs(checked, rows, str(world / "model"))
    tokenizer = tiny.tokenizer()

    def reading(path: Path) -> tuple[GivenUpload | RefusedUpload, Decision]:
        given = read_upload(checked, str(path), rows, files, tokenizer)
        request = TuningRequest(checked, jobs, given, TrainingSettings(), {})
        reasons = given.reasons if isinstance(given, RefusedUpload) else ["as though it were refused"]
        made = request.refused(reasons)
        write_findings(given.findings if isinstance(given, RefusedUpload) else [], folder / FINDINGS)
        write_decision(folder, made)
        write_decision_page(made, folder / REPORT)
        return given, made

    return reading


def beside(folder: Path) -> set[str]:
    """Return everything in a folder but the `--out` folder."""
    found = {str(path.relative_to(folder)) for path in folder.rglob("*")}
    return {name for name in found if name != "out" and not name.startswith("out/")}


def unsafe(text: str) -> list[str]:
    return [one for one in text if one != "\n" and unicodedata.category(one) in UNSAFE_CATEGORIES]


def check_written(made: Decision, folder: Path) -> None:
    """What was written is read back, and holds nothing that a page, a log or a terminal would act on."""
    assert read_decision(folder) == made
    page = (folder / REPORT).read_text(encoding="utf-8")
    assert not re.search(r"<script|<img|<svg|onerror=[^&]*>|onload=[^&]*>", page.split("<body")[1])
    assert unsafe(page) == []
    for reason in made.reasons:
        assert unsafe(reason) == []
        assert len(reason.splitlines()) == 1
    for line in (folder / FINDINGS).read_text(encoding="utf-8").split("\n"):
        assert unsafe(line) == []


EVERY = pytest.mark.parametrize("step", [5, pytest.param(1, marks=pytest.mark.slow)])
"""A fifth of all, or every one."""


def test_there_are_two_hundred_of_them_as_the_documentation_counts():
    labels, names = [one.label for one in hostile.contents()], hostile.names()
    assert len(set(labels)) == len(labels)
    assert len(set(names)) == len(names)
    assert len(labels) + len(names) >= 200
    told = (Path(__file__).parents[2] / "docs/reliability.md").read_text(encoding="utf-8")
    counts = f"{len(names)} names, {len(hostile.NOT_THERE)} names of no file, {len(labels)} contents, "
    assert f"{counts}{len(POLICIES)} policies" in told


@EVERY
def test_a_hostile_name_is_a_name_and_nothing_else(read: Read, tmp_path: Path, step: int) -> None:
    customer = tmp_path / "customer"
    customer.mkdir()
    for name in hostile.names()[::step]:
        path = customer / name
        content = b"prompt,response\ndo the tea,take the tea\n" if name.endswith(".csv") else b'{"prompt": 1}\n'
        path.write_bytes(content)
        before = beside(tmp_path)
        given, made = read(path)
        assert isinstance(given, RefusedUpload), name
        assert unsafe(made.upload.name) == [], name
        check_written(made, tmp_path / "out")
        assert beside(tmp_path) == before, name


@pytest.mark.parametrize("name", hostile.NOT_THERE, ids=repr)
def test_a_name_that_is_no_file_is_one_sentence(read: Read, tmp_path: Path, name: str) -> None:
    with pytest.raises(MithridateError) as error:
        read(tmp_path / "customer" / name)
    assert len(str(error.value)) < 5000
    assert len(str(error.value).splitlines()) == 1


@EVERY
def test_hostile_contents_are_refused_by_line_and_sound_ones_are_not(read: Read, tmp_path: Path, step: int) -> None:
    (tmp_path / "customer").mkdir()
    for content in hostile.contents()[::step]:
        path = tmp_path / "customer" / f"upload{content.ending}"
        path.write_bytes(content.data)
        given, made = read(path)
        assert isinstance(given, GivenUpload) == content.sound, (content.label, made.reasons)
        check_written(made, tmp_path / "out")
        if isinstance(given, GivenUpload):
            assert len(stored_rows(given.rows)) == given.upload.rows
        elif content.line is not None:
            assert f"upload.jsonl:{content.line}:" in made.reasons[0], (content.label, made.reasons)
            assert given.findings[0].origin.endswith(f":{content.line}"), content.label
        path.unlink()


@EVERY
def test_check_says_the_same_in_one_line_each(tmp_path: Path, step: int, capsys: pytest.CaptureFixture[str]) -> None:
    for content in hostile.contents()[::step]:
        path = tmp_path / f"upload{content.ending}"
        path.write_bytes(content.data)
        code = 0
        try:
            check.command(str(path), None, None, None, [], [], None, None, False, False)
        except SystemExit as stopped:
            code = int(str(stopped.code))
        found = capsys.readouterr()
        # Control tokens are a tokenizer's, and there is none here.
        passes = content.sound or content.label in {label for label, _ in hostile.control()}
        assert code == (0 if passes else 1), content.label
        assert unsafe(found.out + found.err) == [], content.label
        path.unlink()


@pytest.mark.parametrize(
    "name",
    [
        "a\nb\x1b[31m\u202e<script>.jsonl",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("$(touch x).jsonl", "CON.jsonl", "\udcff.jsonl")),
    ],
    ids=repr,
)
def test_the_whole_command_with_a_hostile_name(
    call: Called,  # noqa: F811
    policy: dict[str, Any],
    world: Path,
    tmp_path: Path,
    name: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import yaml

    (tmp_path / "policy.yaml").write_text(yaml.safe_dump(policy), encoding="utf-8")
    path = tmp_path / name
    path.write_bytes((world / "user.jsonl").read_bytes())
    before = beside(tmp_path)
    asked = ("tune", str(world / "model"), "--data", str(path), "--policy", str(tmp_path / "policy.yaml"))
    assert call(*asked, "--out", str(tmp_path / "out")) == 0
    assert call("verify", str(tmp_path / "out")) == 0
    assert beside(tmp_path) == before
    assert unsafe(capsys.readouterr().out) == []
    path.write_text("{")
    assert call(*asked, "--out", str(tmp_path / "out")) == 2  # another request
    found = capsys.readouterr()
    assert unsafe(found.out + found.err) == []
    assert len(found.err.strip().splitlines()) == 1


POLICIES = {
    "object": "!!python/object/apply:os.system ['touch x']",
    "aliases": "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n" * 3,
    "deep": "[" * 50_000,
    "deep keys": "".join(f"{' ' * i}a:\n" for i in range(2000)),
    "nan": "name: x\nrelease: {harmful_score: .nan}",
    "list": "- a\n- b\n",
    "empty": "",
    "bytes": "name: !!binary aGVsbG8=",
    "repeated": "name: a\nname: b\n",
    "tab": "name:\t\n\t- x",
    "NUL": "name: a\0b",
    "number": "schema_version: 1e999",
    "merge": "<<: {name: a}\n<<: {name: b}",
}


@pytest.mark.parametrize("kind", POLICIES)
def test_a_hostile_policy_is_one_of_our_errors(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(POLICIES[kind], encoding="utf-8")
    with pytest.raises(MithridateError) as error:
        policy_command.check(path)
    assert unsafe(str(error.value)) == []
    assert not (tmp_path / "x").exists()


def test_the_reader_s_own_errors_are_not_caught_broadly(tmp_path: Path, read: Read) -> None:
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(DataError):
        read(tmp_path / "folder.jsonl")
    assert not (tmp_path / "out" / DECISION).exists()


def test_tune_takes_no_address(policy: dict[str, Any], world: Path, tmp_path: Path) -> None:
    for address in ("http://localhost:1/x.jsonl", "s3://bucket/x.jsonl", "FILE:///etc/passwd"):
        with pytest.raises(MithridateError, match="is an address"):
            tune(str(world / "model"), address, policy, out=tmp_path / "out")
