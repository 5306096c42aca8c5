"""The façade: what a type checker sees, what `__all__` says and what is there at run time are the same.

`make check` runs mypy on a user's code too.
"""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import mithridate as mi
from mithridate.defenses.catalog import listed
from mithridate.defenses.registry import methods

SOURCE = Path(mi.__file__)
PLAIN = """[mypy]
strict = True
[mypy-torch.*,transformers.*,trl.*,peft.*,datasets.*,accelerate.*,safetensors.*,huggingface_hub.*,matplotlib.*]
follow_imports = skip
"""
"""Settings of a user who knows nothing of our plugins; other libraries are left out because they take minutes."""

RIGHT = """
from collections.abc import Sequence
import mithridate as mi
from mithridate.errors import UsageError

version: str = mi.__version__
ratio = mi.Antidote(mask_ratio="auto", scope="delta", budget=0.1).mask_ratio
defenses: Sequence[mi.Defense] = [mi.SFT(), mi.AntibodyTuning(temperature=1.0), mi.Booster(strength=5, radius=0.1)]
repair: mi.Repair = mi.Panacea(radius=1.0)
judges: list[mi.Judge] = [
    mi.RefusalJudge(),
    mi.ChatJudge("http://localhost:8000/v1", "m"),
    mi.GuardJudge("Qwen/Qwen3Guard-Gen-0.6B", base_url="http://localhost:8000/v1"),
]

def worst(scores: list[mi.Score]) -> float:
    return max(score.high for score in scores)

@mi.register("mine", stage="finetuning", paper="none", forward=1, backward=1, off={})
class Mine(mi.Defense):
    force: float = 1.0

    def gradient(self, step: mi.Step) -> mi.Gradient:
        return self.force * step.gradient("user")

mine: float = Mine(force=2.0).force
mi.load_plugins(["mine.py"])
"""
WRONG = {
    "mi.harmful_scor": 'Module has no attribute "harmful_scor"; maybe "harmful_score"?',
    "mi.Antidote(mask_ration=0.1)": 'Unexpected keyword argument "mask_ration" for "Antidote"',
    'mi.Antidote(mask_ratio="much")': "has incompatible type",
    "mi.AntibodyTuning(1.0)": "Too many positional arguments",
    'mi.RefusalJudge(["no"], min_word=3)': 'Unexpected keyword argument "min_word"',
    "mi.harmful_score(1, 2)": 'Missing positional argument "prompts"',
    "mi.Score(0.1, 0.0, 0.2, 9).hihg": 'has no attribute "hihg"',
}


def checked(folder: Path, text: str) -> list[str]:
    """What mypy says of a file, for a user of the installed package."""
    (folder / "mypy.ini").write_text(PLAIN)
    (folder / "use.py").write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", "mypy.ini", "--cache-dir", "cache", "use.py"],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return [line for line in done.stdout.splitlines() if ": error:" in line]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("user")


@pytest.mark.slow
def test_right_uses_are_accepted_and_wrong_ones_named(folder: Path) -> None:
    pytest.importorskip("mypy")
    assert checked(folder, RIGHT) == []
    lines = list(WRONG)
    said = checked(folder, "import mithridate as mi\n" + "\n".join(lines) + "\n")
    for number, line in enumerate(lines, start=2):
        of_line = [error for error in said if error.startswith(f"use.py:{number}:")]
        assert any(WRONG[line] in error for error in of_line), (line, said)


@pytest.mark.slow
def test_every_setting_of_every_defense_has_a_default_that_a_checker_sees(folder: Path) -> None:
    """Without pydantic's plugin a default counts only as ``Field(default=…)``; else every other call is refused."""
    pytest.importorskip("mypy")
    calls = [f"mi.{name}()" for name in sorted(listing.class_name for listing in listed().values())]
    assert checked(folder, "import mithridate as mi\n" + "\n".join(calls) + "\n") == []


def typed() -> dict[str, str]:
    """Names of the façade's `TYPE_CHECKING` block and the modules they come from."""
    block = next(node for node in ast.parse(SOURCE.read_text()).body if isinstance(node, ast.If))
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    return {alias.name: node.module or "" for node in imports for alias in node.names}


def test_every_defense_is_in_the_facade() -> None:
    """Two lines for a new defense: its import, and its name."""
    for listing in listed().values():
        line = f"from {listing.module} import {listing.class_name}"
        assert typed().get(listing.class_name) == listing.module, f"add to mithridate/__init__.py: {line}"
        assert listing.class_name in mi.__all__, f'add to __all__ in mithridate/__init__.py: "{listing.class_name}",'


def test_all_the_typed_block_and_what_is_there_agree() -> None:
    assert {*mi.__all__} == {*typed(), "attacks", "errors", "miniature"}
    assert len(set(mi.__all__)) == len(mi.__all__)
    assert dir(mi) == sorted(mi.__all__)
    for name, module in typed().items():
        assert getattr(mi, name) is getattr(importlib.import_module(module), name), name
    lazy = {name: f"mithridate.{module}" for name, module in mi._MODULES.items()}
    defenses = {listing.class_name: listing.module for listing in listed().values()}
    assert lazy | defenses == typed()
    assert not lazy.keys() & defenses.keys()


def test_the_catalog_says_what_the_registry_says() -> None:
    built_in = {name: info for name, info in methods().items() if info.cls.__module__.startswith("mithridate.")}
    assert list(listed()) == list(built_in)
    for name, info in built_in.items():
        listing = listed()[name]
        assert (listing.class_name, listing.module) == (info.cls.__name__, info.cls.__module__)
        for field in set(listing._fields) - {"class_name", "module"}:
            assert getattr(listing, field) == getattr(info, field), (name, field)


def test_importing_loads_none_of_the_libraries_that_take_seconds() -> None:
    code = (
        "import sys\n"
        "import mithridate as mi\n"
        "assert 'DefendedTrainer' in dir(mi) and mi.__version__\n"
        "assert not {'torch', 'transformers', 'pydantic', 'datasets', 'httpx'} & set(sys.modules)\n"
        "print(*sorted(name for name in sys.modules if name.startswith('mithridate')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    # The package, the modules that are public by their own names, and what loads the names of one of them.
    own = ("attacks", "errors", "lazy_names", "miniature")
    assert done.stdout.split() == ["mithridate", *(f"mithridate.{name}" for name in own)]


def test_a_wrong_name_is_told_without_importing_torch() -> None:
    code = (
        "import sys, mithridate as mi\n"
        "assert not hasattr(mi, 'harmful_scor') and not hasattr(mi, '__wrapped__')\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_listing_the_methods_loads_no_torch() -> None:
    code = (
        "import sys; sys.argv[1:] = ['methods']\n"
        "from mithridate.cli.main import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "assert not {'torch', 'transformers', 'datasets'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
