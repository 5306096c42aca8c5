"""The container files: they are not run here, but what they name exists and what they promise stands in them."""

import json
import re
import shlex
from pathlib import Path

import pytest
import typer
import yaml

from mithridate.cli.main import app
from mithridate.service.handover import ServedModel, folder_name, serving_command
from mithridate.service.service_settings import read_settings

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
DOCKERFILE = (DOCKER / "Dockerfile").read_text()
COMPOSE = yaml.safe_load((DOCKER / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]
OURS = [name for name, service in SERVICES.items() if service["image"] == "mithridate-service"]


def known(arguments):
    """Return the command that arguments call, after checking every name and option in them."""
    command = typer.main.get_command(app)
    rest = list(arguments)
    while rest and hasattr(command, "commands"):
        assert rest[0] in command.commands, rest[0]
        command = command.commands[rest.pop(0)]
    options = {option for parameter in command.params for option in parameter.opts}
    assert {one for one in rest if one.startswith("--")} <= options
    return command.name


def instruction(name):
    lines = DOCKERFILE.replace("\\\n", " ").splitlines()
    return [line.split(maxsplit=1)[1] for line in lines if line.strip().startswith(f"{name} ")]


def test_every_command_of_the_composition_exists():
    assert sorted(known(SERVICES[name]["command"]) for name in OURS) == ["migrate", "start", "worker"]


def test_the_images_own_command_exists():
    assert json.loads(instruction("ENTRYPOINT")[0]) == ["mithridate"]
    assert known(json.loads(instruction("CMD")[-1])) == "start"


@pytest.mark.parametrize("page", ["service.md", "service-move.md", "service-operate.md"])
def test_every_command_of_the_guides_exists(page):
    text = (ROOT / "docs" / page).read_text()
    # As whole lines of a block, and in words.
    calls = re.findall(r"^    (?:sudo -u \S+ )?mithridate (service .*?)(?:\s+#.*)?$", text, re.MULTILINE)
    assert calls
    for call in calls:
        known(re.sub(r"[<>|&$].*", "", word) for word in shlex.split(call, comments=True) if word != "\\")


def test_no_image_is_taken_by_a_name_that_moves():
    bases = [line.partition("=")[2] for line in instruction("ARG") if line.startswith("BASE=")]
    assert len(bases) == 1
    images = bases + [service["image"] for name, service in SERVICES.items() if name not in OURS]
    assert all(re.search(r":\d+\.\d+", image) for image in images)
    assert [name for name in instruction("FROM") if not name.startswith("${BASE}")] == []


def test_nothing_runs_as_root_or_gains_rights():
    assert instruction("USER")[-1] == "10001:10001"
    for name, service in SERVICES.items():
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert not service.get("privileged")
    for name in ("service", "worker"):
        assert SERVICES[name]["cap_drop"] == ["ALL"]
        assert SERVICES[name]["read_only"] is True


def test_only_this_machine_reaches_the_service_and_nobody_the_database():
    assert "ports" not in SERVICES["database"]
    assert SERVICES["service"]["ports"] == ["127.0.0.1:8000:8000"]
    assert COMPOSE["networks"]["inside"] == {"internal": True}
    assert SERVICES["database"]["networks"] == ["inside"]


def test_the_proxys_word_is_believed_where_only_this_machine_reaches_the_port():
    assert all(port.startswith("127.0.0.1:") for port in SERVICES["service"]["ports"])
    assert SERVICES["service"]["environment"] == {**SERVICES["worker"]["environment"], "FORWARDED_ALLOW_IPS": "*"}


def test_the_guides_gpus_are_for_the_containers_that_load_models():
    text = (ROOT / "docs" / "service-operate.md").read_text()
    (shown,) = re.findall(r"^```yaml notest\n(services:\n.*?)^```", text, re.MULTILINE | re.DOTALL)
    given = yaml.safe_load(shown)["services"]
    assert set(given) == {"worker", "service"} <= set(OURS)
    for one in given.values():
        (device,) = one["deploy"]["resources"]["reservations"]["devices"]
        assert device == {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}


def test_the_guides_unit_checks_the_model_that_it_serves():
    text = (ROOT / "docs" / "service-operate.md").read_text()
    (unit,) = re.findall(r"^```ini\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [tuple(line.split("=", 1)) for line in unit.splitlines() if "=" in line]
    said = dict(line for line in lines if line[0] != "Environment")
    names = dict(value.split("=", 1) for name, value in lines if name == "Environment")
    checked, served = (
        [re.sub(r"\$\{(\w+)\}", lambda found: names[found[1]], word) for word in shlex.split(said[name])]
        for name in ("ExecStartPre", "ExecStart")
    )
    # As the service's user, who is not the one that serves; `+` gives the right to become them.
    assert checked[:4] == ["+/usr/bin/sudo", "-H", "-u", "mithridate"]
    assert said["User"] not in checked
    start = checked.index("service")
    assert known(checked[start:]) == "resolve"
    model, folder = checked[start + 2], Path(checked[checked.index("--out") + 1])
    made = ServedModel(model, folder / folder_name(model))
    assert shlex.join(served) == f"/opt/vllm/bin/{serving_command(made)}"


def test_jobs_have_no_way_out():
    settings = read_settings(DOCKER / "service.yaml")
    # Nowhere but in the container whose network leads nowhere; there a job needs no network of its own.
    assert (settings.workers, settings.process.network) == (0, True)
    assert SERVICES["worker"]["networks"] == ["inside"]
    assert "ports" not in SERVICES["worker"]


def test_each_has_a_check_of_its_health():
    assert "/healthz" in DOCKERFILE
    # Not by its socket, on which the server answers that the image runs while it makes the database.
    assert SERVICES["database"]["healthcheck"]["test"][1:3] == ["pg_isready", "--host=127.0.0.1"]
    assert SERVICES["service"]["depends_on"]["migrate"] == {"condition": "service_completed_successfully"}


def test_the_settings_in_the_container_are_valid_and_hold_no_password():
    settings = read_settings(DOCKER / "service.yaml")
    assert settings.host == "0.0.0.0"
    assert settings.database_url == "postgresql://mithridate@database/mithridate"
    assert str(settings.folder) == "/data" == instruction("VOLUME")[0]
    assert "PGPASSWORD" in SERVICES["service"]["environment"]
    written = (DOCKER / "compose.yaml").read_text()
    assert re.findall(r"PASSWORD: (.)", written) == ["$"] * 2


def test_everything_that_the_image_copies_is_let_in():
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {name for line in instruction("COPY") if not line.startswith("--from") for name in line.split()[:-1]}
    assert copied == let_in
    assert all((ROOT / name).exists() for name in copied)
