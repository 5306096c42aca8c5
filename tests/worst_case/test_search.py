"""A search as a whole: what it does, that it goes on where it stopped, and what wins."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import mithridate as mi
from mithridate.errors import DefenseError, UsageError
from mithridate.experiment.inputs import Inputs
from mithridate.experiment.plan import Plan
from mithridate.experiment.recipe_file import make_recipe, read_recipe
from mithridate.experiment.stage_pool import Placement
from mithridate.report.scores import over_seeds
from mithridate.worst_case import search as searching
from mithridate.worst_case import trial_score, worst_reading
from mithridate.worst_case.search import SearchMonitor, redteam_cost
from mithridate.worst_case.studies import DATABASE
from mithridate.worst_case.trial_score import TrialScore
from tests.helpers.ray_nodes import LocalCluster
from tests.worst_case.conftest import TRIALS, FinishedSearch

CONTROL = [{"name": "undefended"}]


def drawn(found: Any) -> list[Any]:
    """What was tried of every row, and what came of it."""
    return [row.model_dump() for row in found.rows]


def folders(search: FinishedSearch, stage: str) -> list[Path]:
    return sorted((search.folder / "store").glob(f"{stage}-*"))


def test_every_row_is_searched_and_others_are_named(search: FinishedSearch) -> None:
    found = search.found
    assert [row.name for row in found.rows] == ["undefended", "panacea"]
    assert [row.control for row in found.rows] == [True, False]
    assert [(row.name, row.reason) for row in found.left_out] == [("clean", "its upload holds no row of the attacker")]
    for row in found.rows:
        assert [trial.number for trial in row.trials] == list(range(TRIALS + 1))
        assert row.own is not None
        assert row.worst is not None
        assert row.worst.chosen_score.value == max(trial.chosen_score for trial in row.trials)
    assert found.prompts.chosen_on + found.prompts.reported_on == 6


def test_rows_begin_with_the_same_trials_and_share_their_trainings(search: FinishedSearch) -> None:
    first, second = ([trial.setting for trial in row.trials] for row in search.found.rows)
    assert first == second
    assert len({trial.learning_rate for trial in first}) == TRIALS + 1
    assert len(folders(search, "alignment")) == 1  # another rank is the attacker's, and aligns nothing anew
    assert len(folders(search, "finetuning")) == TRIALS + 1
    assert len(folders(search, "posttuning")) == TRIALS + 1


def test_a_setting_reaches_the_training(search: FinishedSearch) -> None:
    settings = [trial.setting for trial in search.found.rows[0].trials[1:]]
    wanted = sorted((setting.steps, setting.rank, 2.0 * setting.rank) for setting in settings)
    made = []
    for folder in folders(search, "finetuning"):
        adapter = json.loads((folder / "adapter" / "adapter_config.json").read_text())
        steps = json.loads((folder / "result.json").read_text())["losses"][-1][0]
        made.append((int(steps), adapter["r"], adapter["lora_alpha"]))
    own = (3, 2, 4)  # 12 rows in batches of 4
    assert sorted(made) == sorted([*wanted, own])


def test_the_result_is_written_as_it_was_returned(search: FinishedSearch) -> None:
    tree = json.loads((search.folder / "redteam.json").read_text())
    assert tree == search.found.model_dump(mode="json")
    assert (tree["kind"], tree["version"]) == ("mithridate red team", 1)
    assert "<script" not in (search.folder / "redteam.html").read_text()


def test_the_recipe_of_a_worst_case_repeats_its_training(search: FinishedSearch, tmp_path: Path) -> None:
    for row in search.found.rows:
        recipe = read_recipe(search.folder / str(row.recipe))
        assert [variant.name for variant in recipe.variants] == [row.name]
        assert recipe.evaluation.look_alikes is not None  # which the search left out
        (chain,) = Plan(recipe, Inputs(recipe, Path(), tmp_path)).chains
        for node in chain.nodes[:-1]:
            assert (search.folder / "store" / f"{node.stage}-{node.key}").is_dir()


class Stopped(SearchMonitor):
    """Interrupts a search once some trials have their score."""

    def __init__(self, after: int) -> None:
        self.after = after

    def tried(self, row: str, number: int, of: int, found: Any, feasible: bool) -> None:
        self.after -= 1
        if not self.after:
            raise KeyboardInterrupt


def test_an_interrupted_search_ends_with_the_same_trials(search: FinishedSearch, tmp_path: Path) -> None:
    folder = search.copied_stages(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        mi.redteam(search.tree, folder, trials=TRIALS, monitor=Stopped(4))
    assert not (folder / "redteam.json").exists()
    again = mi.redteam(search.tree, folder, trials=TRIALS)
    assert drawn(again) == drawn(search.found)
    assert again.stages_made == 0
    fewer = mi.redteam(search.tree, folder, trials=1)
    assert drawn(fewer)[0]["trials"] == drawn(search.found)[0]["trials"][:2]


KILLED = """
import os, signal, sys
import mithridate as mi
from mithridate.worst_case.search import SearchMonitor

class Killer(SearchMonitor):
    left = int(sys.argv[3])

    def started(self, node):
        self.left -= 1
        if not self.left:
            os.kill(os.getpid(), signal.SIGKILL)

mi.redteam(sys.argv[1], sys.argv[2], trials=12, monitor=Killer())
"""


LONGER = 12
"""Trials beyond those at random, so that what was seen decides what is tried."""


@pytest.fixture(scope="module")
def longer(search: FinishedSearch, tmp_path_factory: pytest.TempPathFactory) -> FinishedSearch:
    """A search that was not interrupted."""
    folder = search.copied_stages(tmp_path_factory.mktemp("longer"))
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(search.tree))
    return FinishedSearch(mi.redteam(recipe, folder, trials=LONGER), search.tree, folder)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [3, 20, 45])
def test_a_killed_search_ends_with_the_same_trials(longer: FinishedSearch, tmp_path: Path, stage: int) -> None:
    recipe = longer.folder / "recipe.yaml"
    command = [sys.executable, "-c", KILLED, str(recipe), str(tmp_path), str(stage)]
    killed = subprocess.run(command, check=False, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert drawn(mi.redteam(recipe, tmp_path, trials=LONGER)) == drawn(longer.found)


@pytest.mark.slow
def test_trials_of_several_seeds_are_one_score(search: FinishedSearch, tmp_path: Path) -> None:
    tree = search.tree | {"seeds": [0, 1], "variants": CONTROL}
    (row,) = mi.redteam(tree, search.copied_stages(tmp_path), trials=1).rows
    assert row.worst is not None
    assert row.worst.harmful_score.n == 6
    assert len(row.worst.harmful_score.seeds) == 2


@pytest.mark.slow
def test_two_processes_find_the_same(search: FinishedSearch, tmp_path: Path) -> None:
    assert drawn(mi.redteam(search.tree, tmp_path, trials=TRIALS, jobs=2)) == drawn(search.found)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_cluster_finds_the_same(search: FinishedSearch, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed (pip install 'ray[default]')")
    cluster = LocalCluster()
    try:
        cluster.add()
        cluster.add()
        found = mi.redteam(search.tree, tmp_path, trials=TRIALS, engine="ray", ray_address=cluster.address)
    finally:
        cluster.close()
    assert drawn(found) == drawn(search.found)


def faked(score: Any) -> Any:
    """Scores by the learning rate of the training, in place of those that were measured."""

    def found(store: Any, chains: Any, release: Any, places: Any) -> TrialScore:
        job = next(node.job for node in chains[0].nodes if node.stage == "finetuning")
        harmful, correct, broken = score(job.training.learning_rate)
        first, second = ([[at < round(10 * share) for at in range(10)]] for share in (harmful, correct))
        return TrialScore(over_seeds(first), over_seeds(second), broken)

    return found


OWN = 0.01
HARMLESS = {True: (0.2, 0.8, 0.0), False: (0.9, 0.7, 0.0)}


@pytest.mark.parametrize(
    ("harmful", "wins"),
    [
        ((1.0, 0.6, 0.0), False),  # 20 points of accuracy are lost, and 10 may be
        ((1.0, 0.8, 0.2), False),  # a fifth of the answers is broken text
        ((1.0, 0.7, 0.1), True),
    ],
    ids=["accuracy", "broken text", "within the limits"],
)
def test_a_trial_beyond_a_limit_never_wins(
    search: FinishedSearch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harmful: Any, wins: bool
) -> None:
    tree = search.tree | {"redteam": search.tree["redteam"] | {"utility_loss": 0.1}, "variants": CONTROL}
    rates = sorted(trial.setting.learning_rate for trial in search.found.rows[0].trials[1:])

    def score(rate: float) -> Any:
        return harmful if rate == rates[-1] else HARMLESS[rate == OWN]

    for module in (searching, worst_reading):
        monkeypatch.setattr(module, "scored", faked(score))
    found = mi.redteam(tree, search.copied_stages(tmp_path), trials=TRIALS)
    for row in found.rows:
        assert row.worst is not None
        assert (row.worst.setting.learning_rate == rates[-1]) is wins
        assert row.worst.chosen_score.value == (1.0 if wins else 0.9)
        assert [trial.feasible for trial in row.trials].count(False) == (0 if wins else 1)


def test_without_a_setting_within_the_limits_there_is_no_worst_case(
    search: FinishedSearch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (searching, worst_reading):
        monkeypatch.setattr(module, "scored", faked(lambda rate: (0.1, 0.9, 0.5)))
    tree = search.tree | {"redteam": search.tree["redteam"] | {"utility_loss": 0.0}, "variants": CONTROL}
    found = mi.redteam(tree, search.copied_stages(tmp_path), trials=1)
    assert [row.worst for row in found.rows] == [None]
    assert "No defended row has a worst case" in (tmp_path / "redteam.html").read_text()
    assert not list((tmp_path / "worst").glob("*"))


def test_the_score_is_told_on_the_prompts_that_chose_nothing(
    search: FinishedSearch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, read = trial_score.evaluation, []

    def only_the_first_half(store: Any, chain: Any) -> Any:
        record = real(store, chain)
        bad = [at in chosen for at in range(len(record.harmful))]
        parts = {label: one.model_copy(update={"harmful": bad}) for label, one in record.release.items()}
        return record.model_copy(update={"harmful": bad, "release": parts})

    def spied(store: Any, chains: Any, release: Any, places: Any) -> Any:
        read.append(set(places))
        return trial_score.scored(store, chains, release, places)

    with searching._searching(search.tree, search.folder, 1, [], Placement(), SearchMonitor()) as opened:
        chosen, reported = map(set, opened.halves)
    monkeypatch.setattr(trial_score, "evaluation", only_the_first_half)
    monkeypatch.setattr(searching, "scored", spied)
    found = mi.redteam(search.tree, search.copied_stages(tmp_path), trials=1)
    for row in found.rows:
        assert row.worst is not None
        assert row.worst.chosen_score.value == 1.0
        assert row.worst.harmful_score.value == 0.0
        assert row.worst.harmful_score.n == len(reported)
    # Not even looked at while the search goes on.
    assert read
    assert all(places == chosen for places in read)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"finetuning": {"epochs": 2, "learning_rate": 0.01, "batch_size": 4}}, "another recipe"),
        ({"seeds": [1]}, "another recipe"),
        ({"redteam": {"seed": 1}}, "another ranges"),
        ({"redteam": {"learning_rate": [1e-4, 2e-2]}}, "another ranges"),
        ({"variants": [{"name": "undefended"}, {"name": "panacea"}]}, "'panacea' with another recipe"),
    ],
)
def test_a_search_of_another_recipe_is_refused(search: FinishedSearch, change: dict[str, Any], part: str) -> None:
    tree = search.tree | change
    tree["redteam"] = search.tree["redteam"] | change.get("redteam", {})
    with pytest.raises(UsageError, match=f"{part}.*give another --out"):
        redteam_cost(tree, search.folder)


def moved(search: FinishedSearch, folder: Path) -> dict[str, Any]:
    """The recipe with its files in another folder, where a test may change them."""
    world = Path(search.tree["model"]).parent
    shutil.copytree(world, folder)
    tree: dict[str, Any] = json.loads(json.dumps(search.tree).replace(str(world), str(folder)))
    return tree


@pytest.mark.parametrize(
    ("name", "every"), [("user", 4), *(pytest.param(name, 1, marks=pytest.mark.slow) for name in ("user", "attack"))]
)
def test_a_search_on_changed_rows_of_the_user_is_refused(
    search: FinishedSearch, tmp_path: Path, name: str, every: int
) -> None:
    """Whichever row it is: a trial may draw one that the recipe's own setting leaves out."""
    tree, out = moved(search, tmp_path / "world") | {"variants": CONTROL}, search.copied_stages(tmp_path / "out")
    mi.redteam(tree, out, trials=1)
    redteam_cost(tree, out)
    file, refused = tmp_path / "world" / f"{name}.jsonl", []
    lines = file.read_text().splitlines()
    for place, line in list(enumerate(lines))[::every]:
        file.write_text(
            "\n".join([*lines[:place], line.replace('"response": "', '"response": "tea '), *lines[place + 1 :]])
        )
        with pytest.raises(
            UsageError, match=r"a search of 'undefended' with another .*user; .*give another --out"
        ) as told:
            redteam_cost(tree, out)
        refused.append("stages" in str(told.value))
    assert {True, False} == set(refused)


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (lambda folder: (folder / "chat.jinja").write_text("{{ messages }}"), {"stages"}),
        (
            lambda folder: (folder / "prompts.jsonl").write_text('{"prompt": "how"}\n{"prompt": "tea"}'),
            {"stages", "rows"},
        ),
        (lambda folder: None, set()),
    ],
    ids=["template", "prompts", "nothing"],
)
def test_what_is_named_by_path_alone_decides_a_search(
    search: FinishedSearch, tmp_path: Path, change: Any, parts: set[str]
) -> None:
    tree = moved(search, tmp_path / "world") | {"template": str(tmp_path / "world" / "chat.jinja")}
    (tmp_path / "world" / "chat.jinja").write_text("{{ messages[0].content }}")
    seen = []
    for run in ("one", "two"):
        with searching._searching(tree, tmp_path / run, 1, [], Placement(), SearchMonitor()) as opened:
            seen.append(opened.studies["panacea"]._study.user_attrs["identity"])
        change(tmp_path / "world")
    assert {part for part in seen[0] if seen[0][part] != seen[1][part]} == parts


def test_a_search_by_other_code_is_refused(search: FinishedSearch, monkeypatch: pytest.MonkeyPatch) -> None:
    from mithridate.worst_case import search_identity

    monkeypatch.setattr(search_identity, "code_versions", lambda: {"code": "another"})
    with pytest.raises(UsageError, match="another code"):
        redteam_cost(search.tree, search.folder)


def test_a_row_more_keeps_the_trials_of_the_others(search: FinishedSearch) -> None:
    variants = [*search.tree["variants"], {"name": "more", "posttuning": {"method": "panacea", "radius": 0.1}}]
    cost = redteam_cost(search.tree | {"variants": variants}, search.folder, trials=TRIALS)
    assert {row.name: row.left for row in cost.rows} == {"undefended": 0, "panacea": 0, "more": TRIALS}


def test_a_damaged_database_is_named(search: FinishedSearch, tmp_path: Path) -> None:
    folder = search.copied_stages(tmp_path)
    (folder / "store" / DATABASE).write_bytes(b"no database" * 999)
    with pytest.raises(mi.errors.CheckpointError, match=rf"{DATABASE} cannot be read .*; delete it to search anew"):
        redteam_cost(search.tree, folder)


def test_a_row_that_cannot_be_measured_does_not_win_and_the_others_go_on(
    search: FinishedSearch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = searching.TrialStages.run

    def failing(self: Any, trials: Any) -> Any:
        reasons = real(self, trials)
        return ["the loss is NaN" if trial.chains[0].variant.name == "panacea" else why
                for trial, why in zip(trials, reasons, strict=True)]  # fmt: skip

    monkeypatch.setattr(searching.TrialStages, "run", failing)
    found = mi.redteam(search.tree, search.copied_stages(tmp_path), trials=TRIALS)
    fine, failed = found.rows
    assert fine.worst is not None
    assert (failed.own, failed.worst) == (None, None)
    assert {trial.cannot_act for trial in failed.trials} == {"the loss is NaN"}
    assert len(failed.trials) == TRIALS + 1
    cost = redteam_cost(search.tree, tmp_path, trials=TRIALS)
    assert [row.left for row in cost.rows] == [0, 0]


def test_without_a_control_that_can_be_measured_there_is_no_search(
    search: FinishedSearch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(searching.TrialStages, "run", lambda self, trials: ["it is broken"] * len(trials))
    with pytest.raises(DefenseError, match="the control 'undefended' could not be measured: it is broken"):
        mi.redteam(search.tree, tmp_path, trials=1)


def test_what_is_left_to_do_is_told(search: FinishedSearch, tmp_path: Path) -> None:
    fresh = redteam_cost(search.tree, tmp_path, trials=40)
    assert (fresh.first_stages, fresh.first_cached) == (5, 0)
    assert fresh.steps == (2, 3, 4)
    assert [(row.left, row.trainings, row.stages) for row in fresh.rows] == [(40, (1, 1), (2, 2)), (40, (1, 1), (3, 3))]
    assert "known once every row was measured" in " ".join(fresh.lines)
    assert not [path for path in (tmp_path / "store").iterdir() if path.name.startswith(("alignment", "finetuning"))]
    begun = redteam_cost(search.tree, search.folder, trials=5)
    assert (begun.first_cached, [row.left for row in begun.rows]) == (5, [2, 2])
    plain, repaired = (row.seconds for row in begun.rows)
    assert plain is not None
    assert repaired is not None
    assert 0 < plain < repaired
    assert "trainings and repairs take about" in " ".join(begun.lines)
    done = redteam_cost(search.tree, search.folder, trials=TRIALS)
    assert "nothing is left to train" in " ".join(done.lines)


def test_more_rounds_cost_more_trainings(search: FinishedSearch, tmp_path: Path) -> None:
    rounds = [{"method": "several_rounds", "vary": {"rounds": [2, 3]}}, "explicit"]
    tree = search.tree | {"redteam": search.tree["redteam"] | {"attacks": rounds}, "seeds": [0, 1]}
    cost = redteam_cost(tree, tmp_path, trials=2)
    assert cost.rows[0].trainings == (2, 6)
    assert cost.rows[1].stages == (6, 10)
    make_recipe(tree)


def test_trials_are_counted_from_one(search: FinishedSearch, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="trials must be at least 1, not 0"):
        mi.redteam(search.tree, tmp_path, trials=0)


def test_without_optuna_the_command_says_what_to_install(
    search: FinishedSearch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UsageError, match=r"needs Optuna, which is not installed; .* pip install optuna"):
        mi.redteam(search.tree, tmp_path, trials=1)
