"""Reads what a search found: each row's worst case, told on the prompts that did not choose it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from mithridate.experiment.cells import evaluation
from mithridate.experiment.manifest import recipe_hash, versions
from mithridate.experiment.recipe import Recipe, Variant
from mithridate.worst_case.search_space import TrialSetting
from mithridate.worst_case.studies import number_of, reason_of
from mithridate.worst_case.trial_recipe import trial_recipe
from mithridate.worst_case.trial_score import scored
from mithridate.worst_case.worst_results import (
    AttackerSetting,
    LeftOut,
    PromptCounts,
    ReportedSetting,
    RowResult,
    TriedSetting,
    WorstCases,
)

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from mithridate.worst_case.search import Search


def worst_cases(search: Search, command: str | None) -> WorstCases:
    """Return the result of a search of which every trial is done."""
    recipe, space = search.recipe, search.space
    tree = recipe.model_dump(mode="json")
    record = evaluation(search.stages.store, search.own[search.rows.control.name].chains[0])
    return WorstCases(
        name=recipe.name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command,
        trials=search.trials,
        seed=space.ranges.seed,
        seeds=recipe.seeds,
        judge=record.judge,
        prompts=PromptCounts(chosen_on=len(search.halves.chosen_on), reported_on=len(search.halves.reported_on)),
        utility_loss=space.ranges.utility_loss,
        baseline=search.baseline.correct,
        majority=record.majority,
        space=space.ranges.model_dump(mode="json"),
        rows=[_row(search, row) for row in search.rows.searched],
        left_out=[LeftOut(name=name, reason=reason) for name, reason in search.rows.left_out.items()],
        stages_made=search.stages.made,
        seconds=0.0,
        versions=versions(),
        hashes={"recipe": recipe_hash(tree), "inputs": search.stages.inputs([]).hashes()},
        recipe=tree,
    )


def trial_of(search: Search, row: str, number: int) -> TrialSetting | None:
    """Return what a trial of a row drew; None for the recipe's own setting."""
    study = search.studies[row]
    return next((study.drawn(trial) for trial in study.finished if number_of(trial) == number), None)


def _row(search: Search, row: Variant) -> RowResult:
    study = search.studies[row.name]
    # Those that were asked for: the store may hold more, of a call with more trials.
    finished = study.finished[: search.trials]
    tried = [_own(search, row), *(_tried(trial, study.drawn(trial)) for trial in finished)]
    worst = _worst(tried)
    own_feasible = tried[0].feasible
    return RowResult(
        name=row.name,
        alignment=row.alignment.method,
        finetuning=row.finetuning.method,
        posttuning=" + ".join(choice.method for choice in row.posttuning) or "none",
        control=row.name == search.rows.control.name,
        own=None if tried[0].cannot_act else _reported(search, row, 0, None, own_feasible),
        worst=None if worst is None else _reported(search, row, worst, trial_of(search, row.name, worst), True),
        recipe=None if worst is None else f"worst/{row.name}.yaml",
        trials=tried,
    )


def _worst(tried: list[TriedSetting]) -> int | None:
    """Return the number of the feasible trial with the highest score, the earliest of equals; None if there is none."""
    found = [
        (trial.chosen_score, -trial.number) for trial in tried if trial.feasible and trial.chosen_score is not None
    ]
    return -max(found)[1] if found else None


def _own(search: Search, row: Variant) -> TriedSetting:
    score = search.own_score(row.name, search.halves.chosen_on)
    setting = _own_setting(search.recipe)
    if score is None:
        return TriedSetting(number=0, setting=setting, feasible=False, cannot_act=search.own_failed[row.name])
    over = search.limits(score)
    return TriedSetting(
        number=0,
        setting=setting,
        chosen_score=score.harmful_score,
        finetune_accuracy=score.accuracy,
        feasible=max(over.values()) <= 0,
        over=over,
    )


def _tried(trial: FrozenTrial, setting: TrialSetting) -> TriedSetting:
    reason = reason_of(trial)
    if reason is not None:
        return TriedSetting(number=number_of(trial), setting=_shown(setting), feasible=False, cannot_act=reason)
    return TriedSetting(
        number=number_of(trial),
        setting=_shown(setting),
        chosen_score=trial.value,
        finetune_accuracy=trial.user_attrs["finetune_accuracy"],
        feasible=max(trial.constraints.values()) <= 0,
        over=trial.constraints,
    )


def _reported(
    search: Search, row: Variant, number: int, setting: TrialSetting | None, feasible: bool
) -> ReportedSetting:
    if setting is None:
        planned, label, shown = search.own[row.name], None, _own_setting(search.recipe)
    else:
        planned = search.stages.planned(trial_recipe(search.recipe, row, setting))
        label, shown = None if setting.release is None else setting.release.label, _shown(setting)
    # Done long ago, unless a stage was deleted from the store since.
    search.stages.run([planned])
    store = search.stages.store
    reported = scored(store, planned.chains, label, search.halves.reported_on)
    return ReportedSetting(
        number=number,
        setting=shown,
        harmful_score=reported.harmful,
        chosen_score=scored(store, planned.chains, label, search.halves.chosen_on).harmful,
        finetune_accuracy=reported.correct,
        broken_harmful=reported.broken,
        feasible=feasible,
    )


def _shown(setting: TrialSetting) -> AttackerSetting:
    release = setting.release
    return AttackerSetting(
        attack=setting.attack.label,
        attack_settings=setting.attack.model_dump(mode="json", exclude={"name"}),
        release=None if release is None else release.label,
        release_settings={} if release is None else release.model_dump(mode="json", exclude={"name"}),
        learning_rate=setting.learning_rate,
        steps=setting.steps,
        epochs=setting.epochs,
        batch_size=setting.batch_size,
        rank=setting.rank,
        scheduler=setting.scheduler,
    )


def _own_setting(recipe: Recipe) -> AttackerSetting:
    chosen, tuned = recipe.streams.user.attack, recipe.finetuning
    return AttackerSetting(
        attack=None if chosen is None else chosen.label,
        attack_settings={} if chosen is None else chosen.model_dump(mode="json", exclude={"name"}),
        learning_rate=tuned.learning_rate,
        epochs=tuned.epochs,
        batch_size=tuned.batch_size,
        rank=None if recipe.adapter == "none" else (recipe.finetuning_lora or recipe.lora).rank,
        scheduler=tuned.scheduler,
    )
