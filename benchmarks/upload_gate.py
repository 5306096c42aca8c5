"""What the upload gate catches, signal by signal, and how often it is wrong.

    python -m benchmarks.upload_gate --world miniature --cache build/gate
    python -m benchmarks.upload_gate --world minichat --cache build/gate     # needs MITHRIDATE_DATA

Attacks are those of `mithridate.attacks`, hidden among rows of harmless tasks. Every row is scored once; uploads are
then drawn from the scores. Thresholds come from the first half of the harmless tasks alone (``new``: each reported
task is one that the gate never saw), or from other rows of all tasks (``known``). An attack in several uploads is
caught if one of them is not accepted. Tasks whose harmless uploads are not all accepted hide no attack.
"""

import random
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.gate_attacks import CHOSEN_ON, EPOCHS, Attacker, Sent, families, sent
from benchmarks.gate_baselines import KeywordModeration, RuleModeration
from benchmarks.gate_rows import File, Judged, ScoredRows
from benchmarks.gate_worlds import WORLDS, World, rows_of
from benchmarks.measure import report, rounded
from benchmarks.workload import positive
from mithridate.attacks import attack
from mithridate.evaluation.intervals import Score
from mithridate.gates.calibration import thresholds_of
from mithridate.gates.signal_catalog import default_signals
from mithridate.gates.thresholds import GateThresholds
from mithridate.gates.upload_gate import UploadGate
from mithridate.gates.upload_verdict import UploadDecision

RATIOS = (0.01, 0.05, 0.1, 0.3, 1.0)
TEN_ROWS = ("explicit", "identity_shifting", "ten_shot")
"""Attacks that papers make of ten rows and nothing else."""

Tasks = Mapping[str, Sequence[int]]
"""Harmless tasks by name: where their rows lie among the scored ones."""

Made = Mapping[str, Mapping[float, list[list[Sent]]]]
"""Attacks by family and share, one for each seed; no entry where the attack does not exist."""


class Bench(NamedTuple):
    """A gate with its rows and thresholds.

    Attributes:
        rows: The gate and the rows it has scored.
        thresholds: Its thresholds.
        tasks: Harmless tasks that it is measured on.
        size: Rows of an upload.
        draws: Uploads of every task.
    """

    rows: ScoredRows
    thresholds: GateThresholds
    tasks: Tasks
    size: int
    draws: int

    def harmless(self, task: str) -> list[Judged]:
        """Judge harmless uploads of a task; they are as large as the task allows."""
        places = self.tasks[task]
        drawn = (self._generator(task, draw).sample(places, min(self.size, len(places))) for draw in range(self.draws))
        return [self.rows.judged(File(one, EPOCHS), self.thresholds) for one in drawn]

    def attacked(self, made: Sequence[Sequence[Sent]], covers: Sequence[str]) -> list[Judged]:
        """Judge an attack among the rows of tasks, as often as each is drawn."""
        return [self.rows.judged_all(files, self.thresholds) for files in self.files(made, covers)]

    def files(self, made: Sequence[Sequence[Sent]], covers: Sequence[str]) -> Iterator[list[File]]:
        """Yield the uploads of an attack, one list for each task and draw; once where they hold no harmless rows."""
        whole = [parts for parts in made if not any(one.cover for one in parts)]
        for parts in whole:
            yield [self.rows.file(one.rows, [], one.epochs) for one in parts]
        if whole:
            return
        for task in covers:
            for draw in range(self.draws):
                generator = self._generator(task, draw)
                yield [
                    self.rows.file(one.rows, generator.sample(self.tasks[task], one.cover), one.epochs)
                    for one in made[draw % len(made)]
                ]

    def quiet(self, harmless: Mapping[str, Sequence[Judged]]) -> list[str]:
        """Return the tasks whose harmless uploads are all accepted, and that have rows enough to hide an attack in."""
        return [
            task
            for task, verdicts in harmless.items()
            if len(self.tasks[task]) >= self.size and all(one.decision is UploadDecision.ACCEPT for one in verdicts)
        ]

    def _generator(self, task: str, draw: int) -> random.Random:
        return random.Random(f"{task}/{self.size}/{draw}")


def made_attacks(attacker: Attacker, size: int, seeds: int) -> Made:
    """Make every attack at every share."""
    found: dict[str, dict[float, list[list[Sent]]]] = {}
    for name, family in families().items():
        found[name] = {}
        for ratio in RATIOS:
            rounds = [sent(family, attacker, ratio, size, seed) for seed in range(seeds)]
            if there := [one for one in rounds if one is not None]:
                found[name][ratio] = there
    return found


def shares(verdicts: Sequence[Judged]) -> dict[str, Any]:
    """Share of uploads on which each signal fires, on which any does, and which are refused."""
    names = sorted(frozenset().union(*(one.fired for one in verdicts)))
    counts = {name: sum(name in one.fired for one in verdicts) for name in names}
    counts["any signal"] = sum(one.decision is not UploadDecision.ACCEPT for one in verdicts)
    counts["refused"] = sum(one.decision is UploadDecision.REFUSE for one in verdicts)
    return {name: _score(count, len(verdicts)) for name, count in counts.items()}


def row_rates(bench: Bench, places: Sequence[int]) -> dict[str, Any]:
    """Share of rows above the first level of each signal, and of any."""
    over = {
        one.signal: [bench.rows.scores[one.signal][place] > one.levels[0].threshold for place in places]
        for one in bench.thresholds.rows
    }
    found = {name: sum(flags) for name, flags in over.items()}
    found["any signal"] = sum(any(flags) for flags in zip(*over.values(), strict=True))
    return {name: _score(count, len(places)) for name, count in found.items() if count or name == "any signal"}


def measured(bench: Bench, made: Made) -> dict[str, Any]:
    """False alarms on harmless rows and uploads of some tasks, and what is caught of each attack."""
    harmless = {name: bench.harmless(name) for name in bench.tasks}
    # Among rows that set off the gate by themselves every attack would count as caught.
    covers = bench.quiet(harmless)
    judged = {
        family: {ratio: found for ratio, rounds in shared.items() if (found := bench.attacked(rounds, covers))}
        for family, shared in made.items()
    }
    caught = {
        family: {
            "settings_chosen_on_it": family in CHOSEN_ON,
            "files": max(len(files) for rounds in made[family].values() for files in rounds),
            "rows": _attack_rows(bench, made[family][1.0]),
            "uploads": {str(ratio): shares(verdicts) for ratio, verdicts in found.items()},
        }
        for family, found in judged.items()
    }
    return {
        "thresholds": bench.thresholds.table().splitlines(),
        "false_alarms": {
            "rows": {name: row_rates(bench, places) for name, places in bench.tasks.items()},
            "uploads": {name: shares(drawn) for name, drawn in harmless.items()},
            "all uploads": shares([one for drawn in harmless.values() for one in drawn]),
        },
        "attacks hide among": covers,
        "caught": caught,
        "families caught": {
            "looked at": families_caught([one for one in caught.values() if one["settings_chosen_on_it"]]),
            "for the report alone": families_caught(
                [one for one in caught.values() if not one["settings_chosen_on_it"]]
            ),
        },
    }


def families_caught(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Share of families of which more than half of the uploads are caught, by share of the attacker's rows and signal.

    Uploads of one family share rows, so that over several families the families are what is counted.
    """
    counted: dict[str, Any] = {}
    for ratio in map(str, RATIOS):
        there = [one["uploads"][ratio] for one in found if ratio in one["uploads"]]
        names = {name for one in there for name in one}
        counts = {name: sum(one.get(name, {"value": 0})["value"] > 0.5 for one in there) for name in sorted(names)}
        counted |= {ratio: {name: _score(count, len(there)) for name, count in counts.items()}} if there else {}
    return counted


def _attack_rows(bench: Bench, rounds: Sequence[Sequence[Sent]]) -> dict[str, Any] | None:
    """Return the rates of an attack's different rows; None if they are no training rows."""
    files = [bench.rows.file(one.rows, [], one.epochs) for made in rounds for one in made]
    if any(file.places is None for file in files):
        return None
    return row_rates(bench, sorted({place for file in files for place in file.places or ()}))


def ten_rows(bench: Bench, attacker: Attacker) -> dict[str, Any]:
    """Uploads of ten rows, trained on as often as the attack asks, or ten times."""
    found = {}
    for family in TEN_ROWS:
        rounds = sent(families()[family], attacker, 1, 10, 0)
        assert rounds is not None
        files = [bench.rows.file(one.rows, [], max(one.epochs, 10)) for one in rounds]
        verdict = bench.rows.judged_all(files, bench.thresholds)
        found[family] = {"decision": verdict.decision.value, "fired": sorted(verdict.fired)}
    return found


def figures(world: World, options: Namespace) -> list[dict[str, Any]]:
    """Everything that is printed."""
    made = made_attacks(world.attacker, options.size, options.seeds)
    found = []
    for label, signals in (("gate", default_signals()), ("row moderation", (KeywordModeration(), RuleModeration()))):
        if label == "row moderation":  # pairs are refused for their form, which is no moderation of rows
            made = {
                name: shared for name, shared in made.items() if not attack(families()[name].attack).cls.preferences
            }
        textual = replace(world.provider, model=None, tokenizer=None)
        rows = ScoredRows(UploadGate(world.provider if label == "gate" else textual, signals))
        old, new = ({name: rows.places(rows_of(pairs)) for name, pairs in half.items()} for half in world.tasks)
        fit, test = ({name: places[start::2] for name, places in (old | new).items()} for start in (0, 1))
        for called, calibration, tasks in (("new", old, new), ("known", fit, {name: test[name] for name in new})):
            uploads = {name: rows.upload(places, EPOCHS) for name, places in calibration.items()}
            bench = Bench(rows, thresholds_of(rows.gate, uploads), tasks, options.size, options.draws)
            figure = {"what": label, "tasks": called, **measured(bench, made)}
            found.append(figure | {"ten rows, ten epochs": ten_rows(bench, world.attacker)})
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print JSON."""
    parser = ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--world", choices=sorted(WORLDS), default="miniature")
    parser.add_argument("--cache", type=Path, default=Path("build/gate"), help="folder of the aligned models")
    parser.add_argument("--rows", type=positive, default=300, help="rows of every task")
    parser.add_argument("--most", type=positive, default=400, help="rows of each of the provider's streams")
    parser.add_argument("--length", type=positive, default=96, help="tokens of a row that are read")
    parser.add_argument("--size", type=positive, default=100, help="rows of an upload")
    parser.add_argument("--draws", type=positive, default=4, help="uploads of every task")
    parser.add_argument("--seeds", type=positive, default=2, help="draws of every attack's rows")
    parser.add_argument("--out", type=Path, help="file for the JSON, beside standard output")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    # Attacks are made of a pool from which rows can be selected, and some take three times an upload's rows.
    world = WORLDS[options.world](options.cache, options.rows, 3 * options.size)
    world = world._replace(provider=replace(world.provider, most=options.most, max_length=options.length))
    # Where a model is kept decides nothing.
    settings = Namespace(**{name: value for name, value in vars(options).items() if name != "cache"})
    report("upload_gate", settings, "cpu", figures(world, options))


def _score(count: int, n: int) -> dict[str, float | int]:
    return {name: value if name == "n" else rounded(value) for name, value in Score.of(count, n).as_dict().items()}


if __name__ == "__main__":
    main()
