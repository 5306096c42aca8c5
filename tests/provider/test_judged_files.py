"""A folder holds the very files that were judged, or it is refused: to verify, to tune on, to answer and to serve."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mithridate.errors import CheckpointError
from mithridate.files import file_hash
from mithridate.provider.decision import Decision, PolicyName, Upload, write_decision
from mithridate.provider.hand_over import hand_over, verify_release
from mithridate.provider.judged_files import CARD, MODEL, compare_files

WEIGHTS = "model.safetensors"


@pytest.fixture
def released(tmp_path: Path) -> Path:
    """A folder with a decision and its model."""
    model = tmp_path / "out" / MODEL
    model.mkdir(parents=True)
    (model / WEIGHTS).write_bytes(b"weights")
    (model / "config.json").write_text("{}")
    write_decision(model.parent, decision({path.name: file_hash(path) for path in model.iterdir()}))
    (model / CARD).write_text("# A card")
    return model


def decision(files: dict[str, str]) -> Decision:
    return Decision(
        outcome="released", reasons=[], request="0", policy=PolicyName(name="tiny", sha256="0" * 64), model={},
        upload=Upload(name="x", sha256="0", rows=12, held_out=0), options={}, files=files, versions={}, created="now",
    )  # fmt: skip


def link_a_file(model: Path) -> None:
    (model / WEIGHTS).rename(model.parent / "elsewhere")
    (model / WEIGHTS).symlink_to(model.parent / "elsewhere")


def link_the_folder(model: Path) -> None:
    model.rename(model.parent / "elsewhere")
    model.symlink_to(model.parent / "elsewhere")


def link_the_card(model: Path) -> None:
    (model / CARD).unlink()
    (model / CARD).symlink_to("/etc/hostname")


def make_a_folder_of_a_file(model: Path) -> None:
    (model / WEIGHTS).unlink()
    (model / WEIGHTS).mkdir()


HARM: dict[str, tuple[Callable[[Path], object], str]] = {
    "another byte": (lambda model: (model / WEIGHTS).write_bytes(b"Weights"), f"{WEIGHTS} is not what was judged"),
    "no bytes": (lambda model: (model / WEIGHTS).write_bytes(b""), f"{WEIGHTS} is not what was judged"),
    "a file more": (lambda model: (model / "modeling.py").touch(), "modeling.py was not judged"),
    "a folder more": (lambda model: (model / "code").mkdir(), "code was not judged"),
    "a file less": (lambda model: (model / WEIGHTS).unlink(), f"{WEIGHTS} is missing"),
    "a link": (link_a_file, f"{WEIGHTS} is not what was judged"),
    "a link to all": (link_the_folder, "does not hold the files that were judged"),
    "a link in place of the card": (link_the_card, f"{CARD} was not judged"),
    "a folder": (make_a_folder_of_a_file, f"{WEIGHTS} is not what was judged"),
}


@pytest.mark.parametrize("harm", HARM)
def test_other_files_than_the_judged_ones_are_refused_and_named(released: Path, harm: str) -> None:
    change, said = HARM[harm]
    made = verify_release(released.parent)
    change(released)
    for refusing in (
        lambda: compare_files(released, made.files),
        lambda: verify_release(released.parent),
        lambda: hand_over(made, released.parent / "work", released.parent),
    ):
        with pytest.raises(CheckpointError, match=f"{said}; do not serve it"):
            refusing()


def test_a_release_without_files_is_none(released: Path) -> None:
    for path in released.iterdir():
        path.unlink()
    write_decision(released.parent, decision({}))
    with pytest.raises(CheckpointError, match=f"remove {released} and run mithridate tune again"):
        verify_release(released.parent)


def test_a_missing_folder_holds_nothing_that_was_judged(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not hold the files that were judged; ask"):
        compare_files(tmp_path / "none", {WEIGHTS: "0" * 64}, "ask")


def test_the_check_loads_no_models() -> None:
    # The server and its workers make it, and hold no weights.
    code = "import sys, mithridate.provider.judged_files; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
