"""The check of a built package: files that it lacks, or should not have, are named."""

import tarfile
import zipfile
from pathlib import Path

import pytest

from tools import smoke

WHOLE = (
    "mithridate/py.typed",
    "mithridate/data/templates/a",
    "mithridate/report/templates/b",
    "mithridate/miniature/c.py",
)


def built(folder: Path, wheel: tuple[str, ...], source: tuple[str, ...]) -> Path:
    with zipfile.ZipFile(folder / "mithridate-0-py3-none-any.whl", "w") as archive:
        for name in wheel:
            archive.writestr(name, "")
    empty = folder / "empty"
    empty.touch()
    with tarfile.open(folder / "mithridate-0.tar.gz", "w:gz") as archive:
        for name in source:
            archive.add(empty, f"mithridate-0/src/{name}")
    return folder


@pytest.mark.parametrize(
    ("wheel", "source", "message"),
    [
        (WHOLE[1:], WHOLE, r"lacks \['mithridate/py.typed'\]"),
        (WHOLE, WHOLE[:2] + WHOLE[3:], r"lacks \['src/mithridate/report/templates/'\]"),
        ((*WHOLE, "tools/smoke.py"), WHOLE, r"holds \['tools/smoke.py'\]"),
    ],
)
def test_what_is_missing_or_too_much_is_named(wheel, source, message, tmp_path):
    with pytest.raises(SystemExit, match=message):
        smoke.main(built(tmp_path, wheel, source))


def test_a_package_outside_of_the_environment_is_not_tried(tmp_path):
    with pytest.raises(SystemExit, match=r"mithridate was imported from .*, not from "):
        smoke.main(built(tmp_path, WHOLE, WHOLE))
