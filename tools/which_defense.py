"""Write docs/which-defense.md from the registry and the cards: ``python -m tools.which_defense``."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jinja2

from mithridate.defenses.registry import methods
from mithridate.errors import DataError
from mithridate.report.results import Results
from mithridate.report.results_file import load_results
from mithridate.settings import STAGES, Info
from tools import checks_table, control_table
from tools.cards import Card, Measured, Trial, read_cards, trials
from tools.method_facts import shipped

ROOT = Path(__file__).parents[1]
DOCS, CARDS = ROOT / "docs", ROOT / "cards"
RESULTS = DOCS / "results" / "methods.json"
PAGE, TEMPLATE = DOCS / "which-defense.md", Path(__file__).parent / "templates" / "which-defense.md.jinja"

LOW_PRICE = 2.0
"""Points of accuracy a method may lose, this bound excluded, to be named in the short list."""
SMALL_LOSS = 5.0
"""Points by which over-refusal may rise or helpfulness fall, where they were measured, to be named there."""

TITLES = {"alignment": "Before fine-tuning", "finetuning": "During fine-tuning", "posttuning": "After fine-tuning"}
ABOUT = {
    "alignment": "Passes are per optimizer step of the alignment stage.",
    "finetuning": "Passes are per optimizer step on the user's rows.",
    "posttuning": "Passes are over the rows the method needs, once.",
}
SHOWN = ("harmful_score", "finetune_accuracy", "over_refusal")
BESIDE = {"over_refusal": "over-refusal", "helpfulness": "helpfulness"}
"""What a harmful score of 0 can hide."""
PRICE = "at less than 2 points of accuracy lost, and no more than 5 of over-refusal and helpfulness where measured"
NOTHING = "–"


class Tried(NamedTuple):
    """One trial with the stages its methods act at."""

    stages: tuple[str, ...]
    trial: Trial

    @property
    def score(self) -> Measured:
        """The harmful score, which every run has."""
        return self.trial.figures["harmful_score"]

    @property
    def loss(self) -> float | None:
        """Points of accuracy lost."""
        accuracy = self.trial.figures.get("finetune_accuracy")
        return None if accuracy is None else accuracy.undefended.value - accuracy.value


def page(infos: Mapping[str, Info], cards: Mapping[str, Card], results: Results | None = None) -> str:
    """The whole page.

    Args:
        infos: The registered methods.
        cards: Their cards.
        results: A run in which methods stand beside the control.

    Raises:
        DataError: If a method has no card.
    """
    infos = shipped(infos)
    if missing := [name for name in infos if name not in cards]:
        raise DataError(f"{', '.join(missing)}: no card; every method has one in cards/<name>.json")
    worlds = _worlds(infos, cards)
    labels = {world["setting"]: world["label"] for world in worlds}
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        worlds=worlds,
        control=None if results is None or control_table.control_of(results) is None else control(results),
        embedded=all(world["setting"].startswith("miniature:") for world in worlds),
        stages=[_stage(stage, infos, cards, labels) for stage in STAGES],
        disagreements=[f"{_link(i)}: {cards[n].note}" for n, i in infos.items() if cards[n].agreement == "disagrees"],
        claims=_claims(infos, cards),
        checks=checks_table.table(infos, cards, _link),
        papers=[_paper(info, cards[name]) for name, info in infos.items()],
        **_choices(infos),
    )


def control(results: Results) -> dict[str, Any]:
    """What the page says of the control."""
    return {
        "sentences": control_table.sentences(results),
        "groups": control_table.groups(results),
        "rows": list(control_table.rows(results)),
        "source": f"`{results.command}`, seeds {', '.join(map(str, results.seeds))}",
    }


def _claims(infos: Mapping[str, Info], cards: Mapping[str, Card]) -> list[str]:
    """Every answered claim once, with the methods it is about."""
    about: dict[tuple[str, str, str, str], list[str]] = {}
    for name, info in infos.items():
        for c in cards[name].claims:
            where = f"`{c.command}`, {c.date}, seeds {', '.join(map(str, c.seeds))}"
            tables = f", [tables]({c.results.removeprefix('docs/')}/claims.md)" if c.results else ""
            about.setdefault((c.claim, c.verdict, c.why, where + tables), []).append(_link(info))
    return [
        f"{', '.join(links)}: *{claim}* **{verdict.capitalize()}.** {why} ({where})"
        for (claim, verdict, why, where), links in about.items()
    ]


def _choices(infos: Mapping[str, Info]) -> dict[str, Any]:
    """Which methods are left under what a provider has."""
    after = [i for i in infos.values() if "posttuning" in i.stages]
    training = [i for i in infos.values() if "posttuning" not in i.stages and i.name != "sft"]
    defenses = [i for i in infos.values() if i.name != "sft" and "harmful" not in i.streams]
    by_stage = {stage: [i for i in defenses if stage in i.stages] for stage in STAGES}
    return {
        "only_finished": _names(i for i in after if not i.references),
        "with_aligned": _names(i for i in after if set(i.references) == {"aligned"}),
        "with_base": _names(i for i in after if "base" in i.references),
        "without_harmful": [f"{TITLES[s].lower()}: {_names(found)}" for s, found in by_stage.items()],
        "cheap": _names(i for i in training if i.backward <= 1),
    }


def _worlds(infos: Mapping[str, Info], cards: Mapping[str, Card]) -> list[dict[str, Any]]:
    """Every setting in which something was measured, with its advice."""
    found: dict[str, list[Tried]] = {}
    seen = set()
    for name in infos:
        for trial in trials(cards[name]):
            key = (trial.facts.command, trial.facts.setting, trial.facts.variant)
            if key not in seen and trial.facts.methods != ["sft"]:
                seen.add(key)
                found.setdefault(trial.facts.setting, []).append(Tried(_acts(infos, trial), trial))
    return [
        {"setting": s, "label": f"Run {number}", "advice": _advice(tried), "source": _source(tried)}
        for number, (s, tried) in enumerate(sorted(found.items()), 1)
    ]


def _acts(infos: Mapping[str, Info], trial: Trial) -> tuple[str, ...]:
    stages = {infos[name].stages[0] for name in trial.facts.methods if name in infos}
    return tuple(stage for stage in STAGES if stage in stages)


def _advice(tried: list[Tried]) -> list[str]:
    groups = sorted({t.stages for t in tried} | {(s,) for s in STAGES}, key=lambda g: (len(g), STAGES.index(g[0])))
    return [f"{_when(group)}: {_best([t for t in tried if t.stages == group])}" for group in groups]


def _when(stages: tuple[str, ...]) -> str:
    first, *rest = [TITLES[stage] for stage in stages]
    return " and ".join([first, *(title.lower() for title in rest)])


def _best(tried: list[Tried]) -> str:
    """The lowest harmful score among those that lower it clearly and cost little else."""
    if not tried:
        return "nothing was measured."
    good = [t for t in tried if t.score.clearly_below(t.score.undefended) and _low_price(t)]
    if not good:
        return f"of {len(tried)} measured, none lowers the harmful score clearly {PRICE}."
    best, *others = sorted(good, key=lambda t: t.score.value)
    ties = [_settings(t.trial) for t in others if t.score.low <= best.score.high]
    tail = f" Its interval overlaps with that of {'; '.join(ties)}." if ties else ""
    figures = best.trial.figures
    beside = "".join(
        f"; {word} {_cell(figures[name])}" if name in figures else f"; {word} not measured"
        for name, word in BESIDE.items()
    )
    return (
        f"{_settings(best.trial)} has the lowest harmful score {PRICE}: "
        f"{_cell(best.score)}; accuracy {_cell(figures['finetune_accuracy'])}{beside}.{tail}"
    )


def _low_price(tried: Tried) -> bool:
    """Little accuracy lost, and within 5 points of over-refusal and helpfulness as far as these were measured."""
    figures = tried.trial.figures
    refused, helped = figures.get("over_refusal"), figures.get("helpfulness")
    return (
        tried.loss is not None
        and tried.loss < LOW_PRICE
        and (refused is None or refused.value - refused.undefended.value <= SMALL_LOSS)
        and (helped is None or helped.undefended.value - helped.value <= SMALL_LOSS)
    )


def _source(tried: list[Tried]) -> str:
    runs = {}
    for t in tried:
        facts = t.trial.facts
        seeds = f"seeds {', '.join(map(str, facts.seeds))}"
        runs[facts.command] = f"`{facts.command}`, {facts.date}, {seeds}" + (
            f", {facts.results}" if facts.results else ""
        )
    return "; ".join(runs.values())


def _stage(
    stage: str, infos: Mapping[str, Info], cards: Mapping[str, Card], labels: Mapping[str, str]
) -> dict[str, Any]:
    here = [info for info in infos.values() if stage in info.stages]
    rows = [row for info in here for row in _rows(info, cards[info.name], labels)]
    return {"title": TITLES[stage], "about": ABOUT[stage], "rows": rows}


def _rows(info: Info, card: Card, labels: Mapping[str, str]) -> list[list[str]]:
    """One row per trial; what belongs to the method stands in the first."""
    claim = f"**{card.agreement}**" if card.agreement == "disagrees" else card.agreement
    first, last = [_link(info), _needs(info), _passes(info)], [claim]
    width = (len(labels) > 1) + 1 + len(SHOWN)
    found = [_measured(trial, labels) for trial in trials(card)] or [[NOTHING] * width]
    return [[*first, *found[0], _published(card), *last], *([*[""] * 3, *cells, "", ""] for cells in found[1:])]


def _published(card: Card) -> str:
    """The first published harmful score on the card that has its undefended value, and where it stands."""
    for figure in card.reported:
        if figure.metric == "harmful_score" and figure.undefended is not None:
            return f"{figure.value:g} against {figure.undefended:g} ({figure.source})"
    return NOTHING


def _measured(trial: Trial, labels: Mapping[str, str]) -> list[str]:
    figures = [trial.figures.get(metric) for metric in SHOWN]
    cells = [_cell(figure) if figure else NOTHING for figure in figures]
    run = [labels.get(trial.facts.setting, NOTHING)] if len(labels) > 1 else []
    return [*run, _settings(trial, alone=True).replace("|", r"\|"), *cells]


def _settings(trial: Trial, alone: bool = False) -> str:
    """The methods of a trial with their settings, in code; the settings only, where a row is one method's anyway."""
    plain = trial.facts.variant.partition(": ")[2] or trial.facts.variant
    if alone and len(trial.facts.methods) == 1:
        return plain.partition("(")[2].removesuffix(")") or "–"
    for name in sorted(trial.facts.methods, key=len, reverse=True):
        plain = re.sub(rf"(?<![\w`]){name}(?![\w`])", f"`{name}`", plain)
    return plain


def _cell(figure: Measured) -> str:
    return f"{figure.value:.1f} [{figure.low:.1f}, {figure.high:.1f}] against {figure.undefended.value:.1f}"


def _needs(info: Info) -> str:
    rows = [f"{stream} rows" if stream != "refusals" else stream for stream in info.streams]
    models = [
        {"base": "base model", "aligned": "aligned model", "start": "the model the stage starts from"}[r]
        for r in info.references
    ]
    return ", ".join([*rows, *models]) or "nothing more"


def _passes(info: Info) -> str:
    return f"{info.forward} + {info.backward}" + (f"; {info.extra}" if info.extra else "")


def _paper(info: Info, card: Card) -> list[str]:
    stages = ", ".join(TITLES[stage].lower() for stage in info.stages)
    count = str(len(card.reported)) if card.reported else "none"
    paper = card.paper
    if paper is None:
        return [_link(info), stages, f"no paper; {info.paper}", *[NOTHING] * 3, _passes(info), count]
    title = f"[{paper.title}](https://arxiv.org/abs/{paper.arxiv})" if paper.arxiv else paper.title
    code = f"[code]({paper.code})" if paper.code else NOTHING
    venue = f"{paper.venue} {paper.year}"
    return [
        _link(info),
        stages,
        f"{paper.authors}: {title}",
        venue,
        code,
        paper.license or NOTHING,
        _passes(info),
        count,
    ]


def _link(info: Info) -> str:
    """The method's name, linked to its page: that of the method, or of the file it shares with others."""
    for page_name in (info.name, info.cls.__module__.rpartition(".")[2]):
        if (DOCS / "methods" / f"{page_name}.md").exists():
            return f"[`{info.name}`](methods/{page_name}.md)"
    return f"`{info.name}`"


def _names(infos: Iterable[Info]) -> str:
    return ", ".join(_link(info) for info in infos) or "none"


if __name__ == "__main__":
    PAGE.write_text(page(methods(), read_cards(CARDS), load_results(RESULTS)), encoding="utf-8")
