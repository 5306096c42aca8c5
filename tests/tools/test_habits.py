"""What runs around the code: workflows, locks and the files other services read."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
PINS = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize(("schema", "files"), [
    ("vendor.github-workflows", ".github/workflows/*.yml"),
    ("custom.github-workflows-require-timeout", ".github/workflows/*.yml"),
    ("vendor.dependabot", ".github/dependabot.yml"),
    ("vendor.github-issue-forms", ".github/ISSUE_TEMPLATE/[bm]*.yml"),
    ("vendor.citation-file-format", "CITATION.cff"),
])  # fmt: skip
def test_files_of_other_services_are_valid(schema: str, files: str) -> None:
    paths = [str(path) for path in ROOT.glob(files)]
    command = [str(Path(sys.executable).parent / "check-jsonschema"), "--builtin-schema", schema, *paths]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert paths
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_has_few_rights_and_pinned_actions(path: Path) -> None:
    workflow = yaml.safe_load(path.read_text())
    assert workflow["permissions"] == {"contents": "read"}
    for name, job in workflow["jobs"].items():
        assert job.get("permissions", {}) in ({}, {"id-token": "write"}), name
        for step in job["steps"]:
            assert re.search(r"@v\d+\.\d+\.\d+$", step.get("uses", "@v1.0.0")), step
            if step.get("uses", "").startswith("actions/checkout"):
                assert step["with"] == {"persist-credentials": False}
            assert "${{ github.event" not in step.get("run", ""), "text of others would be run"


def test_make_targets_of_workflows_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.M))
    called = {name for path in WORKFLOWS for name in re.findall(r"run: make ([a-z-]+)", path.read_text())}
    assert {"check", "test", "test-all", "coverage", "package"} == called <= targets


def test_every_supported_python_is_tested() -> None:
    tested = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text())["jobs"]["test"]["strategy"]["matrix"][
        "python"
    ]
    said = [line.rpartition(" ")[2] for line in PROJECT["classifiers"] if "Python :: 3." in line]
    assert tested == said
    assert PROJECT["requires-python"] == f">={tested[0]}"


def test_the_hooks_have_the_pinned_ruff() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    (revision,) = [repo["rev"] for repo in hooks if "ruff" in repo["repo"]]
    assert revision == f"v{PINS['ruff']}"


def test_the_citation_names_this_version() -> None:
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == PROJECT["version"]


@pytest.mark.parametrize(
    ("lock", "project"), [("mithridate", "pyproject.toml"), ("portfolio", "portfolio/pyproject.toml")]
)
def test_a_lock_holds_hashes_of_the_pinned_versions(lock: str, project: str) -> None:
    text = (ROOT / "lock" / f"{lock}.txt").read_text()
    entries = re.findall(r"^([\w.-]+)==([^\s;]+)(.*?)(?=^\S|\Z)", text, flags=re.M | re.S)
    assert [name for name, _, rest in entries if "--hash=sha256:" not in rest] == []
    locked = {normal(name): version for name, version, _ in entries}
    pins = {normal(name): version for name, version in PINS.items()}
    assert {n: v for n, v in locked.items() if pins.get(n, v) != v} == {}, "run `make lock`"
    wanted = tomllib.loads((ROOT / project).read_text())["project"]
    needs = [*wanted["dependencies"], *wanted["optional-dependencies"]["dev"]]
    missing = {normal(re.split(r"[\[<>=;~! ]", need)[0]) for need in needs} - locked.keys() - {"torch"}
    assert missing == set(), "run `make lock`"
    assert not [name for name in locked if re.match(r"torch$|nvidia|cuda|triton", name)], "PyTorch is the machine's own"
