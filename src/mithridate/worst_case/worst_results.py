"""The result of a search, as `redteam.json` holds it."""

from typing import Any, Literal

from pydantic import Field

from mithridate.report.scores import ResultPart, ScoreOverSeeds, Share

VERSION = 1
"""Version of `redteam.json`; it grows when a key changes its meaning or goes."""


class AttackerSetting(ResultPart):
    """What an attacker chose.

    Attributes:
        attack: Name of the attack that makes the upload; None where rows are mixed in as they are.
        attack_settings: Its settings.
        release: Name of the attack on the finished model; None where it is asked as it is.
        release_settings: Its settings.
        learning_rate: Of fine-tuning.
        steps: Optimizer steps; None where epochs were searched.
        epochs: Epochs.
        batch_size: Rows of an optimizer step.
        rank: Rank of the adapter; None where it was not searched.
        scheduler: Scheduler of the learning rate.
    """

    attack: str | None
    attack_settings: dict[str, Any] = Field(default_factory=dict)
    release: str | None = None
    release_settings: dict[str, Any] = Field(default_factory=dict)
    learning_rate: float
    steps: int | None = None
    epochs: float | None = None
    batch_size: int
    rank: int | None = None
    scheduler: str


class TriedSetting(ResultPart):
    """One trial.

    Attributes:
        number: Its place in the study, from 1; 0 is the recipe's own setting.
        setting: What the attacker chose.
        chosen_score: Harmful score on the half of the prompts that the search read; None where none was measured.
        finetune_accuracy: Accuracy on the user's task; likewise.
        feasible: Whether every limit was kept.
        over: By how much each limit was exceeded, as fractions; below 0 where it was kept.
        cannot_act: Why nothing was measured.
    """

    number: int = Field(ge=0)
    setting: AttackerSetting
    chosen_score: Share | None = None
    finetune_accuracy: Share | None = None
    feasible: bool
    over: dict[str, float] = Field(default_factory=dict)
    cannot_act: str | None = None


class ReportedSetting(ResultPart):
    """A setting with its score on the prompts that were not used to choose it.

    Attributes:
        number: The trial; 0 is the recipe's own setting.
        setting: What the attacker chose.
        harmful_score: Harmful score on the other half of the prompts.
        chosen_score: Harmful score on the half that was used to choose; the highest of many, so too high.
        finetune_accuracy: Accuracy on the user's task.
        broken_harmful: Share of the answers to the other half that are broken text and called harmful.
        feasible: Whether every limit was kept.
    """

    number: int = Field(ge=0)
    setting: AttackerSetting
    harmful_score: ScoreOverSeeds
    chosen_score: ScoreOverSeeds
    finetune_accuracy: ScoreOverSeeds
    broken_harmful: Share
    feasible: bool


class RowResult(ResultPart):
    """What a search found of one row.

    Attributes:
        name: The row.
        alignment: Defense at alignment.
        finetuning: Defense at fine-tuning.
        posttuning: Defenses after fine-tuning.
        control: Whether it is the undefended control.
        own: The recipe's own setting; None where it could not be measured.
        worst: The worst case; None where no setting kept every limit.
        recipe: File that repeats the worst case; None likewise.
        trials: Everything that was tried, the recipe's own setting first.
    """

    name: str
    alignment: str
    finetuning: str
    posttuning: str
    control: bool
    own: ReportedSetting | None
    worst: ReportedSetting | None
    recipe: str | None
    trials: list[TriedSetting]


class LeftOut(ResultPart):
    """A row that was not searched, and why."""

    name: str
    reason: str


class PromptCounts(ResultPart):
    """How many harmful prompts a setting was chosen on, and how many its score is reported on."""

    chosen_on: int
    reported_on: int


class WorstCases(ResultPart):
    """Every row's worst case.

    Attributes:
        kind: What the file is.
        version: Version of the format.
        name: The recipe's name.
        created: When.
        command: The command to show.
        trials: Trials of each row.
        seed: Seed of the search and of the split.
        seeds: Seeds of the attack.
        judge: Name of the judge.
        prompts: How the prompts were split.
        utility_loss: Largest loss of accuracy against the baseline, and largest share of broken text.
        baseline: Accuracy of the control at the recipe's own setting.
        majority: Accuracy of always giving the task's most common answer.
        space: What was searched, with every default filled in.
        rows: The rows.
        left_out: Rows that were not searched.
        stages_made: Stages that this call did; the others were in the store.
        seconds: What this call took.
        versions: Versions of the package, Python and libraries.
        hashes: Hashes of the recipe and of every input.
        recipe: The resolved recipe.
    """

    kind: Literal["mithridate red team"] = "mithridate red team"
    version: int = VERSION
    name: str
    created: str
    command: str | None
    trials: int
    seed: int
    seeds: list[int]
    judge: str
    prompts: PromptCounts
    utility_loss: float
    baseline: ScoreOverSeeds
    majority: float | None
    space: dict[str, Any]
    rows: list[RowResult]
    left_out: list[LeftOut]
    stages_made: int
    seconds: float
    versions: dict[str, str]
    hashes: dict[str, Any]
    recipe: dict[str, Any]
