"""What must work in an environment that holds the wheel and nothing of the repository.

    python -I tools/smoke.py DIST

Prints what it tried. It imports the installed package only, and looks into the built files for what they lack.
"""

import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import version
from pathlib import Path

import mithridate as mi

SHIPPED = ("mithridate/py.typed", "mithridate/data/templates/", "mithridate/report/templates/", "mithridate/miniature/")
"""Files and folders that are no Python, or whose absence no import notices."""
NOT_SHIPPED = ("tests/", "tools/", "cards/", "benchmarks/", "examples/", "docs/", "portfolio/")


def main(dist: Path) -> None:
    """Try the installed package.

    Raises:
        SystemExit: Saying what does not work.
    """
    (wheel,), (source,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    names = zipfile.ZipFile(wheel).namelist()
    with tarfile.open(source) as archive:
        packed = [name.partition("/")[2] for name in archive.getnames()]
    missing = [name for name in SHIPPED if not any(file.startswith(name) for file in names)]
    missing += [f"src/{name}" for name in SHIPPED if not any(file.startswith(f"src/{name}") for file in packed)]
    extra = [name for name in names if name.startswith(NOT_SHIPPED)]
    if missing or extra:
        remedy = "see [tool.setuptools] in pyproject.toml"
        sys.exit(f"{wheel.name} or {source.name} lacks {missing} and holds {extra[:3]}; {remedy}")
    if not Path(mi.__file__).is_relative_to(sys.prefix):
        sys.exit(f"mithridate was imported from {mi.__file__}, not from {sys.prefix}")
    defense = mi.AntibodyTuning(temperature=8.0)
    rows = mi.miniature.rows("task")
    program = Path(sys.prefix) / "bin" / "mithridate"
    listed = subprocess.run([program, "methods"], capture_output=True, text=True, check=True).stdout
    if defense.info.name not in listed:
        sys.exit(f"`mithridate methods` does not list {defense.info.name}")
    print(f"mithridate {version('mithridate')}: {len(mi.methods())} methods, {len(rows)} rows, {wheel.name} is whole")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
