"""Plug-ins: defenses of installed packages and of files, taken whole or refused in one sentence."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import mithridate as mi
from mithridate.cli.main import main
from mithridate.defenses import plugins, registry
from mithridate.defenses.plugins import fingerprint, load_plugins
from mithridate.defenses.registry import method, methods
from mithridate.errors import MithridateError, UsageError
from tests.helpers import tiny

GOOD = '''"""A defense of somebody else."""
import mithridate as mi


@mi.register("{name}", stage="finetuning", paper="nowhere", forward=1, backward=1, off={{"force": 1.0}})
class {cls}(mi.Defense):
    """{cls}: g = force·∇f(w)  (1 pass)."""

    force: float = {force}

    def gradient(self, step: mi.Step) -> mi.Gradient:
        return self.force * step.gradient(step.main)
'''


def good(name: str = "gentle", cls: str = "Gentle", force: float = 0.5) -> str:
    return GOOD.format(name=name, cls=cls, force=force)


@pytest.fixture(autouse=True)
def apart(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing that a test loads is there after it."""
    methods()
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))
    monkeypatch.setattr(plugins, "_FILES", {})
    monkeypatch.setattr(plugins, "_PACKAGES", set())
    monkeypatch.setenv(plugins.VARIABLE, "")
    modules = set(sys.modules)
    yield
    for name in set(sys.modules) - modules:
        if name.startswith(("mithridate_plugin_", "gentle")):
            del sys.modules[name]


def written(folder: Path, text: str, name: str = "mine.py") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def package(folder: Path, text: str, value: str = "gentle_defenses") -> Path:
    """An installed package: a module, and the metadata that pip leaves."""
    (folder / "gentle_defenses").mkdir(parents=True)
    (folder / "gentle_defenses" / "__init__.py").write_text(text)
    info = folder / "gentle_defenses-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: gentle-defenses\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[mithridate.defenses]\ngentle = {value}\n")
    return folder


def test_packages_are_asked_once_until_one_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, plain = [], plugins.entry_points
    monkeypatch.setattr(plugins, "entry_points", lambda **given: asked.append(given) or plain(**given))
    monkeypatch.syspath_prepend(tmp_path)
    assert "gentle" not in methods()
    before = len(asked)
    methods()
    assert len(asked) == before
    package(tmp_path, good())
    assert "gentle" in methods()
    assert len(asked) == before + 1


def test_a_file_brings_a_defense_that_trains(tmp_path: Path) -> None:
    load_plugins([written(tmp_path, good())])
    gentle = mi.Gentle
    assert methods()["gentle"].cls is gentle is method("gentle", "finetuning").cls
    assert list(methods()).index("gentle") > list(methods()).index("constrained_sft")  # sorted with the others

    def trained(defense: mi.Defense) -> list[float]:
        model = tiny.model()
        mi.DefendedTrainer(
            model,
            args=tiny.config(tmp_path / "out", max_steps=1, max_grad_norm=0.0, optim="sgd"),
            train_dataset=tiny.rows("user"),
            processing_class=tiny.tokenizer(),
            defense=defense,
        ).train()
        start = dict(tiny.model().named_parameters())
        return [float((p - start[name]).detach().double().norm()) for name, p in model.named_parameters()]

    whole, half = trained(mi.SFT()), trained(gentle())
    assert half == pytest.approx([moved / 2 for moved in whole], rel=1e-3)


USE = """
import sys
import mithridate as mi
from mithridate.cli.main import main
from mithridate.defenses.plugins import load_plugins
from mithridate.defenses.registry import method

if __name__ == "__main__":
    load_plugins([sys.argv[1]])
    assert mi.Gentle(force=2.0).force == 2.0
    for name in ("gentle", "kind"):
        print(method(name).summary)
    sys.argv[1:] = ["methods", "--json"]
    main()
"""


@pytest.mark.slow
def test_packages_and_files_are_found_in_a_fresh_process(tmp_path: Path) -> None:
    """A package by its entry point alone, a file by its name; the list of methods has both."""
    folder = package(tmp_path, good())
    path, script = written(tmp_path, good("kind", "Kind")), written(tmp_path, USE, "use.py")
    where = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, script, path], capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONPATH": where},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    gentle, kind, listing = done.stdout.split("\n", 2)
    assert (gentle, kind) == ("Gentle: g = force·∇f(w)  (1 pass).", "Kind: g = force·∇f(w)  (1 pass).")
    rows = {row["name"]: row for row in json.loads(listing)}
    assert rows["gentle"]["stages"] == ["finetuning"]
    assert set(rows) == {*methods(), "gentle", "kind"}


def test_a_package_is_found_by_its_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(package(tmp_path, good()))
    assert mi.Gentle is method("gentle").cls
    with pytest.raises(AttributeError, match="did you mean 'Gentle'"):
        mi.Gentel  # noqa: B018


def test_the_command_line_and_the_environment_name_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, other = written(tmp_path, good()), written(tmp_path, good("kind", "Kind"), "other.py")
    monkeypatch.setenv(plugins.VARIABLE, str(other))
    assert called(monkeypatch, "methods", "--json", "--plugin", str(path)) == 0
    listed = {row["name"] for row in json.loads(capsys.readouterr().out)}
    assert {"gentle", "kind", "sft"} <= listed
    gone = tmp_path / "gone.py"
    for command in (["repair", "m", "--out", "o"], ["run", "r.yaml"], ["methods"]):
        assert called(monkeypatch, *command, "--plugin", str(gone)) == 2
        said = f"mithridate: the plug-in {gone} cannot be read (No such file or directory); give a Python file\n"
        assert capsys.readouterr().err == said


def called(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["mithridate", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


BROKEN: dict[str, tuple[str, str]] = {
    "syntax": ("def (", r"cannot be loaded \(SyntaxError: invalid syntax"),
    "an import": ("import nothing_of_this_name", r"cannot be loaded \(ModuleNotFoundError: No module named 'nothing"),
    "an error": ("raise RuntimeError('two\\nlines')", r"cannot be loaded \(RuntimeError: two\); mend it or remove it"),
    "an error of ours": ("import mithridate as mi; mi.SFT(x=1)", r"SettingError: SFT: unknown key 'x'"),
    "an exit": ("raise SystemExit(0)", r"cannot be loaded \(SystemExit: 0\)"),
    "no message": ("assert False", r"cannot be loaded \(AssertionError: no message\)"),
    "no defense": ("x = 1", "registers no defense; decorate its class with mithridate.register"),
    "nothing": ("", "registers no defense"),
    "not even text": ("\0", "cannot be loaded"),
    "a taken name": (good("sft", "Mine"), "two defenses are called 'sft'"),
    "a taken class": (good("mine", "Antidote"), "has a class Antidote, as Mithridate has; rename it"),
    "an error after a defense": (good() + "\nraise ValueError('late')", r"cannot be loaded \(ValueError: late\)"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_one_sentence_and_leaves_nothing(tmp_path: Path, case: str) -> None:
    text, message = BROKEN[case]
    path, before, modules = written(tmp_path, text), dict(registry._REGISTRY), set(sys.modules)
    for _ in range(2):  # the second time it is as broken as the first
        with pytest.raises(UsageError, match=message) as caught:
            load_plugins([path])
        assert str(caught.value).startswith(f"the plug-in {path} ")
        assert "\n" not in str(caught.value)
        assert before == registry._REGISTRY
        assert not [name for name in set(sys.modules) - modules if name.startswith("mithridate_plugin_")]
        assert os.environ[plugins.VARIABLE] == ""
    path.write_text(good())
    load_plugins([path])  # mended
    assert "gentle" in methods()


@pytest.mark.parametrize(
    ("text", "value", "message"),
    [
        ("raise OSError('no')", "gentle_defenses", "cannot be loaded (OSError: no)"),
        (good("sft", "Mine"), "gentle_defenses", "two defenses are called 'sft'"),
        (good(), "gentle_defenses:Missing", "AttributeError"),
        (good(), "gentle_defences", "ModuleNotFoundError"),
        ("", "gentle_defenses", "registers no defense"),
    ],
)
def test_a_broken_package_is_one_sentence_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, value: str, message: str
) -> None:
    monkeypatch.syspath_prepend(package(tmp_path, text, value))
    before = dict(registry._REGISTRY)
    for _ in range(2):  # the second time it is as broken as the first
        with pytest.raises(UsageError) as caught:
            methods()
        assert str(caught.value).startswith("the plug-in 'gentle' of the package gentle-defenses ")
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)
        assert before == registry._REGISTRY


def test_loading_twice_is_loading_once_but_a_change_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, good())
    load_plugins([path, path])
    first = mi.Gentle
    monkeypatch.chdir(tmp_path)
    load_plugins(["mine.py", "./mine.py"])
    assert mi.Gentle is first
    path.write_text(good(force=9.0))
    assert methods()["gentle"].cls is first  # a run goes on with what it has loaded
    with pytest.raises(UsageError, match=r"mine\.py has changed since it was loaded; start again in a new process"):
        load_plugins([path])


def test_a_worker_never_runs_another_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, good())
    load_plugins([path])
    path.write_text(good(force=9.0))
    monkeypatch.setattr(plugins, "_FILES", {})  # as in a process that starts now and inherits the environment
    monkeypatch.delitem(registry._REGISTRY, "gentle")
    with pytest.raises(UsageError, match=r"mine\.py has changed since it was loaded"):
        methods()
    path.write_text(good())
    assert methods()["gentle"].cls().force == 0.5


def test_two_files_of_one_name_are_two_plugins(tmp_path: Path) -> None:
    for name, cls in (("gentle", "Gentle"), ("kind", "Kind")):
        (tmp_path / name).mkdir()
        load_plugins([written(tmp_path / name, good(name, cls))])
    assert {"gentle", "kind"} <= set(methods())
    (tmp_path / "again").mkdir()
    with pytest.raises(UsageError, match="two defenses are called 'kind'"):
        load_plugins([written(tmp_path / "again", good("kind", "Kinder"))])


def test_a_plugin_may_use_the_defenses_it_finds(tmp_path: Path) -> None:
    text = "from mithridate.defenses.registry import methods\nassert 'sft' in methods()\n" + good()
    load_plugins([written(tmp_path, text)])
    assert "gentle" in methods()


def test_what_a_plugin_computed_is_known_by_its_file(tmp_path: Path) -> None:
    path = written(tmp_path, good())
    load_plugins([path])
    assert fingerprint(mi.SFT) is None
    before = fingerprint(mi.Gentle)
    assert before is not None
    assert len(before) == 64
    path.write_text(good(force=9.0))
    assert fingerprint(mi.Gentle) == before  # of what was loaded


def test_what_a_package_computed_is_known_by_all_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(package(tmp_path, good()))
    before = fingerprint(mi.Gentle)
    assert before == fingerprint(mi.Gentle)
    (tmp_path / "gentle_defenses" / "formula.py").write_text("FORCE = 2")
    assert fingerprint(mi.Gentle) != before


def test_a_class_of_no_file_has_no_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    made = type("Made", (mi.SFT,), {"__module__": "session"})
    monkeypatch.setitem(sys.modules, "session", type(sys)("session"))
    with pytest.raises(UsageError, match="the defense Made is from no file; put it into one"):
        fingerprint(made)


@pytest.mark.parametrize("make", [lambda p: p.mkdir(), lambda p: None])
def test_what_is_no_file_is_a_sentence(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "mine.py")
    with pytest.raises(MithridateError, match=r"the plug-in .*mine\.py cannot be read \(.*\); give a Python file"):
        load_plugins([tmp_path / "mine.py"])


def test_the_example_of_the_docs_is_a_plugin(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "plug-ins.md").read_text(encoding="utf-8")
    load_plugins([written(tmp_path, page.split("```python\n")[1].split("```")[0])])
    assert mi.GentleSFT(force=0.1).force == 0.1
    assert "gentle_sft" in methods()
