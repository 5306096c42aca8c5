"""Run mutmut on a random sample of all mutants, or on all of them, and print what the tests noticed as one JSON object.

    python -m benchmarks.mutants --sample 300 --seed 1
    python -m benchmarks.mutants --keep --only NAME NAME …

The code to mutate and the tests to run are named in pyproject.toml under ``tool.mutmut``.
"""

import argparse
import json
import os
import random
import shutil
from collections import Counter
from pathlib import Path
from typing import Any, TextIO

from mutmut import __main__ as mutmut
from mutmut.configuration import config
from mutmut.mutation.data import SourceFileMutationData
from mutmut.mutation.diff_apply import get_diff_for_mutant
from mutmut.stats import status_by_exit_code
from mutmut.utils.file_utils import copy_also_copy_files, copy_src_dir, walk_mutatable_files

from benchmarks.mutants import SECONDS, operators

PLACE = Path("mutants").absolute()
"""Where mutmut puts the mutated copy and its results."""


def main() -> None:
    """Make all mutants, run the chosen ones and print the figures."""
    options = _options()
    out = _own_stdout()
    if not options.keep:
        shutil.rmtree(PLACE, ignore_errors=True)
    _environment(options.seconds)
    operators.install()
    names = sorted(_generated(options.jobs))
    chosen = options.only or random.Random(options.seed).sample(names, min(options.sample or len(names), len(names)))
    print(f"{len(chosen)} of {len(names)} mutants")
    mutmut._run(chosen, options.jobs)
    json.dump(_report(options, len(names), chosen), out, indent=2, ensure_ascii=False)
    out.write("\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mutants", description=__doc__.splitlines()[0])
    parser.add_argument("--sample", type=int, default=0, help="mutants to draw; all without it")
    parser.add_argument("--seed", type=int, default=1, help="seed of the draw")
    parser.add_argument("--jobs", type=int, default=1, help="mutants tested at a time")
    parser.add_argument("--seconds", type=float, help="most seconds of tests for one mutant, the quickest first")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these mutants instead of a sample")
    parser.add_argument("--keep", action="store_true", help="take the mutants of the last run; sources must not differ")
    return parser.parse_args()


def _own_stdout() -> TextIO:
    """The real standard output; whatever mutmut and the tests print goes to standard error instead."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return out


def _environment(seconds: float | None) -> None:
    """Processes that tests start import the mutated copy too, and find the same data."""
    if seconds is not None:
        os.environ[SECONDS] = str(seconds)
    os.environ["MITHRIDATE_DATA"] = str(Path(os.environ.get("MITHRIDATE_DATA", "../shared")).absolute())
    os.environ["PYTHONPATH"] = os.pathsep.join([str(PLACE / "src"), *filter(None, [os.environ.get("PYTHONPATH")])])


def _generated(jobs: int) -> list[str]:
    """Write the mutated copy; the names of all mutants."""
    PLACE.mkdir(exist_ok=True)
    copy_src_dir()
    copy_also_copy_files()
    mutmut.create_mutants(jobs)
    return [name for data in _results() for name in data.exit_code_by_key]


def _results() -> list[SourceFileMutationData]:
    found = [SourceFileMutationData(path=path) for path in walk_mutatable_files()]
    for data in found:
        data.load()
    return found


def _report(options: argparse.Namespace, total: int, chosen: list[str]) -> dict[str, Any]:
    codes = {name: code for data in _results() for name, code in data.exit_code_by_key.items()}
    status = {name: status_by_exit_code[codes[name]] for name in chosen}
    counts = Counter(status.values())
    return {
        "benchmark": "mutants",
        "settings": {
            "seed": options.seed, "sample": options.sample or None, "seconds": options.seconds,
            "code": config().only_mutate, "tests": config().pytest_add_cli_args_test_selection,
        },
        "figures": {
            "mutants": total, "sampled": len(chosen), **counts, "share_killed": _share(counts["killed"], len(chosen)),
        },
        "not_killed": {
            name: {"status": status[name], "diff": get_diff_for_mutant(name)}
            for name in chosen if status[name] != "killed"
        },
    }  # fmt: skip


def _share(killed: int, sampled: int) -> dict[str, float | int]:
    """With its Wilson interval; imported late, so that no test process inherits the original package."""
    from mithridate.evaluation.intervals import Score

    return Score.of(killed, sampled).as_dict()


if __name__ == "__main__":
    main()
