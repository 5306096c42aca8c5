"""``mithridate evaluate``."""

import json
from typing import Any, get_args

from rich.console import Console
from rich.table import Table

from mithridate.cli.models import open_model
from mithridate.data import load_rows, read_prompts
from mithridate.data.data_sources import MINIATURE
from mithridate.errors import UsageError
from mithridate.evaluation.accuracy import Task, grade_model
from mithridate.evaluation.generation import generate
from mithridate.evaluation.harmful_score import judge_answers
from mithridate.evaluation.intervals import Score
from mithridate.evaluation.judges import ChatJudge, ClassifierJudge, Judge, RefusalJudge
from mithridate.evaluation.over_refusal import over_refusal
from mithridate.nearest import nearest


def command(
    name: str,
    prompts: str,
    task: str | None,
    kind: Any,
    look_alikes: str | None,
    judge: str,
    template: str | None,
    max_new_tokens: int,
    batch_size: int,
    as_json: bool,
    ignore: list[str],
) -> None:
    """Measure one model and print the shares with their intervals."""
    if kind not in get_args(Task):
        near = nearest(kind, get_args(Task))
        hint = f"; did you mean '{near}'?" if near else ""
        raise UsageError(f"--kind is {kind!r}; it must be one of {', '.join(get_args(Task))}{hint}")
    if kind != "label" and task is None:
        raise UsageError(f"--kind {kind} has no effect without --task; give the task's test rows")
    chosen = judge_named(judge)
    asked = read_prompts(prompts, ignore)
    test = None if task is None else load_rows(task, ignore=() if task.startswith(MINIATURE) else ignore)
    benign = None if look_alikes is None else read_prompts(look_alikes, ignore)
    model, tokenizer = open_model(name, template)
    size: dict[str, Any] = {"max_new_tokens": max_new_tokens, "batch_size": batch_size}
    judged = judge_answers(asked, generate(model, tokenizer, asked, **size, progress=True), chosen)
    scores = {"harmful_score": judged.harmful_score, "harmful_score_plus": judged.harmful_score_plus}
    if test is not None:
        scores["finetune_accuracy"] = grade_model(model, tokenizer, test, kind, batch_size=batch_size).score
    if benign is not None:
        scores["over_refusal"] = over_refusal(model, tokenizer, benign, **size)
    _print(scores, chosen.name, as_json)


def judge_named(name: str) -> Judge:
    """A judge from ``refusal``, ``classifier:MODEL`` or ``chat:URL:MODEL``.

    Raises:
        UsageError: If the name has another form.
    """
    kind, _, rest = name.partition(":")
    if kind == "refusal" and not rest:
        return RefusalJudge()
    if kind == "classifier" and rest:
        return ClassifierJudge(rest)
    url, _, model = rest.rpartition(":")
    if kind == "chat" and url and model:
        return ChatJudge(url, model, api_key_env="OPENAI_API_KEY")
    near = nearest(kind, ("refusal", "classifier", "chat"))
    hint = f"; did you mean '{near}'?" if near and near != kind else ""
    raise UsageError(f"--judge is {name!r}; give refusal, classifier:MODEL or chat:URL:MODEL{hint}")


def _print(scores: dict[str, Score], judge: str, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"judge": judge} | {name: score.as_dict() for name, score in scores.items()}, indent=1))
        return
    table = Table(title=f"judge: {judge}")
    for column in ("measure", "share", "95 % interval", "n"):
        table.add_column(column)
    for measure, score in scores.items():
        interval = f"{score.low:.1%} to {score.high:.1%}"
        table.add_row(measure.replace("_", " "), f"{score.value:.1%}", interval, str(score.n))
    Console().print(table)
