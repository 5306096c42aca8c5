"""Defenses from outside this package: of installed packages, and of files named in a recipe or on the command line.

A package offers its defenses by the entry-point group ``mithridate.defenses``; a file is a Python file. Either one
registers its defenses with `register` as it is imported. It is code, and runs with all rights of the process: name only
plug-ins you trust.
"""

import functools
import hashlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, TypeVar

from mithridate.errors import UsageError

GROUP = "mithridate.defenses"
"""Entry-point group of packages that bring defenses."""
VARIABLE = "MITHRIDATE_PLUGINS"
"""Environment variable with the files to load, parted as in PATH; worker processes inherit it.

A process adds to each file it has loaded ``#sha256=`` and its hash, so that a worker never runs another version.
"""

_HASH = "#sha256="
_Key = TypeVar("_Key")
_FILES: dict[Path, str] = {}  # files loaded in this process, and the hash of what was loaded
_PACKAGES: set[str] = set()  # entry points loaded in this process


def load_plugins(paths: Iterable[str | Path]) -> None:
    """Load defenses from Python files, here and in every process that is started from now on.

    Args:
        paths: The files; one that is loaded already is left as it is.

    Raises:
        UsageError: A file is not there, fails, registers no defense or one whose name is taken, or has changed since
            this process loaded it.
    """
    from mithridate.defenses.registry import methods

    methods()  # first, so that of two defenses with one name the plug-in's is refused
    for path in map(_resolved, paths):
        _load_file(path)


def load_named() -> None:
    """Load what installed packages offer and the environment variable names, once for each process.

    Raises:
        UsageError: As `load_plugins` does.
    """
    for entry in _offered():
        if entry.value not in _PACKAGES:
            _PACKAGES.add(entry.value)  # before it runs, as it may ask for the defenses itself
            with _forgotten_on_failure(_PACKAGES.discard, entry.value):
                _take(_title(entry), entry.module.partition(".")[0], entry.load)
    for name in filter(None, os.environ.get(VARIABLE, "").split(os.pathsep)):
        file, _, expected = name.partition(_HASH)
        path = _resolved(file)
        if path not in _FILES:  # what is loaded stays, even if its file is being changed
            _load_file(path, expected or None)


def any_named() -> bool:
    """Return whether there are plug-ins to load, without importing any."""
    return bool(os.environ.get(VARIABLE)) or bool(_offered())


def _offered() -> tuple[EntryPoint, ...]:
    """Return what installed packages offer, read anew only when a package has come or gone."""
    places = [Path(place) for place in sys.path]
    return _entries(tuple((place, place.stat().st_mtime_ns) for place in places if place.exists()))


@functools.lru_cache(maxsize=1)
def _entries(installed: tuple[tuple[Path, int], ...]) -> tuple[EntryPoint, ...]:
    # Reading the metadata of all packages takes 10 ms, and the table of defenses is asked for at every turn.
    return tuple(sorted(entry_points(group=GROUP)))


def fingerprint(cls: type) -> str | None:
    """Return the hash of the code that a plug-in's class is from; None for a class of this package.

    What a plug-in computed is worth keeping only as long as its code is the same: a file as it was loaded, or all
    Python files of a package.

    Raises:
        UsageError: The class is from no file, as in a notebook.
    """
    top = cls.__module__.partition(".")[0]
    if top == "mithridate":
        return None
    module = sys.modules.get(top)
    file = getattr(module, "__file__", None)
    if file is None:
        raise UsageError(f"the defense {cls.__name__} is from no file; put it into one and name that as a plug-in")
    path = _resolved(file)
    if path in _FILES:
        return _FILES[path]
    files = sorted(path.parent.rglob("*.py")) if hasattr(module, "__path__") else [path]
    return _digest(b"".join(str(one.relative_to(path.parent)).encode() + one.read_bytes() for one in files))


def _load_file(path: Path, expected: str | None = None) -> None:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"the plug-in {path} cannot be read ({error.strerror}); give a Python file") from error
    digest = _digest(content)
    if digest != _FILES.get(path, expected or digest):
        raise UsageError(f"the plug-in {path} has changed since it was loaded; start again in a new process")
    if path in _FILES:
        return
    _FILES[path] = digest
    with _forgotten_on_failure(_FILES.pop, path):
        name = f"mithridate_plugin_{path.stem}_{_digest(str(path).encode())[:8]}"  # two files may have one name
        _take(str(path), name, lambda: _execute(name, path, content))
    os.environ[VARIABLE] = os.pathsep.join(f"{path}{_HASH}{digest}" for path, digest in _FILES.items())


def _resolved(name: str | Path) -> Path:
    return Path(name).expanduser().resolve()


def _execute(name: str, path: Path, content: bytes) -> None:
    """Run a file as a module of its own."""
    spec = importlib.util.spec_from_loader(name, loader=None, origin=str(path))
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    module.__file__ = str(path)
    sys.modules[name] = module
    exec(compile(content, path, "exec"), module.__dict__)  # what was hashed, not what the file holds by now


def _take(title: str, package: str, load: Callable[[], Any]) -> None:
    """Load one plug-in whole or not at all."""
    from mithridate.defenses.registry import rolled_back_on_failure

    with rolled_back_on_failure() as table, _unloaded_on_failure(package):
        before = dict(table)
        try:
            load()
        except (Exception, SystemExit) as error:  # foreign code: whatever it raises is the plug-in's fault
            said = (str(error).splitlines() or [""])[0] or "no message"
            raise UsageError(
                f"the plug-in {title} cannot be loaded ({type(error).__name__}: {said}); mend it or remove it"
            ) from error
        added = [info for name, info in table.items() if name not in before]
        if not added:
            raise UsageError(f"the plug-in {title} registers no defense; decorate its class with mithridate.register")
        taken = {info.cls.__name__ for info in before.values()}
        for info in added:
            if info.cls.__name__ in taken:
                raise UsageError(f"the plug-in {title} has a class {info.cls.__name__}, as Mithridate has; rename it")


@contextmanager
def _unloaded_on_failure(package: str) -> Iterator[None]:
    """Take out again what was imported of a package, so that the next try runs it anew."""
    before = set(sys.modules)
    try:
        yield
    except BaseException:
        for name in set(sys.modules) - before:
            if name.partition(".")[0] == package:
                del sys.modules[name]
        raise


@contextmanager
def _forgotten_on_failure(forget: Callable[[_Key], Any], key: _Key) -> Iterator[None]:
    try:
        yield
    except BaseException:
        forget(key)
        raise


def _title(entry: EntryPoint) -> str:
    package = entry.dist.name if entry.dist is not None else entry.value
    return f"'{entry.name}' of the package {package}"


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
