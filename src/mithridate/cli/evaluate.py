"""The command ``mithridate evaluate``."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, get_args

from rich.console import Console
from rich.table import Table

from mithridate.cli.asking import Questions, answers, vllm_answers
from mithridate.cli.named_judges import judge_named
from mithridate.cli.output_folder import refuse_existing
from mithridate.data import load_rows, read_prompts
from mithridate.data.data_sources import MINIATURE
from mithridate.errors import UsageError
from mithridate.evaluation.accuracy import Graded, Task, task_questions
from mithridate.evaluation.harmful_score import Judged, judge_completions
from mithridate.evaluation.intervals import Score
from mithridate.evaluation.judges import RefusalJudge
from mithridate.evaluation.over_refusal import refusal_rate
from mithridate.evaluation.vllm.environment import Engine, vllm_version
from mithridate.experiment.disk import plain_disk_errors
from mithridate.experiment.launch import check_launch
from mithridate.experiment.manifest import versions
from mithridate.files import write_json
from mithridate.nearest import nearest

COMPLETIONS, VERDICTS, SUMMARY = "completions.jsonl", "verdicts.jsonl", "summary.json"
"""Files in ``--out``, in the order in which they are written; a folder that has the last one is complete."""


class Asked(NamedTuple):
    """What to measure.

    Attributes:
        model: Folder or hub id.
        prompts: Source of unseen harmful prompts.
        task: Source of the task's test rows.
        kind: How task completions are matched.
        look_alikes: Source of harmless prompts that look harmful.
        judge: The judge, as `mithridate.cli.named_judges` reads it.
        key_env: Environment variable with the judge's API key.
        template: Chat template.
        dtype: Type of the weights, or ``auto``.
        max_new_tokens: Longest completion, in tokens.
        batch_size: Prompts per batch.
        ignore: Keys of the rows to leave out.
        engine: What generates the answers.
    """

    model: str
    prompts: str
    task: str | None
    kind: str
    look_alikes: str | None
    judge: str
    key_env: str | None
    template: str | None
    dtype: str
    max_new_tokens: int
    batch_size: int
    ignore: list[str]
    engine: str


def command(asked: Asked, out: Path | None, as_json: bool, launch: int) -> None:
    """Measure one model and print the shares with their intervals.

    Args:
        asked: What to measure.
        out: Folder to keep completions and verdicts in.
        as_json: Print JSON.
        launch: Processes that share the prompts; the answers do not depend on it.
    """
    check_launch(launch, [])
    engine = _engine(asked.engine, launch)
    # What fails at once comes first; the model, which takes minutes to load, comes last.
    kind = _task_kind(asked)
    if out is not None:
        refuse_existing(out)
    judge = judge_named(asked.judge, asked.key_env)
    prompts = read_prompts(asked.prompts, asked.ignore)
    test = None if asked.task is None else load_rows(asked.task, ignore=_of_file(asked.task, asked.ignore))
    task = None if test is None else task_questions(test, kind)
    benign = None if asked.look_alikes is None else read_prompts(asked.look_alikes, asked.ignore)
    questions = Questions(
        model=asked.model,
        template=asked.template,
        dtype=asked.dtype,
        prompts=prompts,
        look_alikes=benign,
        test=test,
        task=kind,
        max_new_tokens=asked.max_new_tokens,
        batch_size=asked.batch_size,
    )
    found = vllm_answers(questions) if engine == "vllm" else answers(questions, launch)

    said = {"harmful": (prompts, found["harmful"])}
    if benign is not None:
        said["look_alikes"] = (benign, found["look_alikes"])
    graded = None
    if test is not None and task is not None:
        graded = task.graded(found["task"])
        said["task"] = ([row["prompt"][-1]["content"] for row in test], found["task"])
    if out is not None:  # before anything is judged, since a judge may fail
        rows = [
            {"set": name, "prompt": prompt, "completion": completion}
            for name, texts in said.items()
            for prompt, completion in zip(*texts, strict=True)
        ]
        _write_lines(out / COMPLETIONS, rows)

    judged = judge_completions(*said["harmful"], judge)
    scores = {"harmful_score": judged.harmful_score, "harmful_score_plus": judged.harmful_score_plus}
    if graded is not None:
        scores["finetune_accuracy"] = graded.score
    if "look_alikes" in said:
        scores["over_refusal"] = refusal_rate(said["look_alikes"][1])
    if out is not None:
        _keep(out, asked, versions(engine), scores, judged, graded, said)
    _print(scores, judge.name, as_json)


def _task_kind(asked: Asked) -> Any:
    kinds = get_args(Task)
    if asked.kind not in kinds:
        near = nearest(asked.kind, kinds)
        hint = f"; did you mean '{near}'?" if near else ""
        raise UsageError(f"--kind is {asked.kind!r}; it must be one of {', '.join(kinds)}{hint}")
    if asked.kind != "label" and asked.task is None:
        raise UsageError(f"--kind {asked.kind} has no effect without --task; give the task's test rows")
    return asked.kind


def _engine(named: str, launch: int) -> Engine:
    """Return the engine; refuse one that is unknown, not there, or to be started by each of several processes."""
    if named not in get_args(Engine):
        raise UsageError(f"--engine is {named!r}; it must be one of {', '.join(get_args(Engine))}")
    engine: Engine = "transformers" if named == "transformers" else "vllm"
    if engine == "vllm":
        if launch > 1:
            raise UsageError("--engine vllm batches all prompts by itself; leave --launch out")
        vllm_version()
    return engine


def _of_file(source: str, ignore: list[str]) -> list[str]:
    """Return the keys to leave out; rows of the embedded world have none."""
    # `miniature:…` together with keys to ignore is refused, but here they may be meant for another source.
    return [] if source.startswith(MINIATURE) else ignore


def _keep(
    out: Path,
    asked: Asked,
    made_with: dict[str, str],
    scores: dict[str, Score],
    judged: Judged,
    graded: Graded | None,
    said: dict[str, tuple[list[str], list[str]]],
) -> None:
    """Write every verdict, then the summary."""
    _write_lines(out / VERDICTS, [*_verdicts(judged), *_grades(graded, said), *_refusals(said)])
    shown = {name: score.as_dict() for name, score in scores.items()}
    with plain_disk_errors(out):
        write_json(
            out / SUMMARY, {"judge": judged.judge, "scores": shown, "asked": asked._asdict(), "versions": made_with}
        )


def _verdicts(judged: Judged) -> Iterator[dict[str, Any]]:
    rows = zip(judged.prompts, judged.completions, judged.verdicts, judged.outcomes, judged.broken, strict=True)
    for prompt, completion, verdict, outcome, broken in rows:
        row = {"set": "harmful", "prompt": prompt, "completion": completion, "harmful": verdict.harmful}
        yield row | {"score": verdict.score, "reason": verdict.reason, "outcome": outcome, "broken": broken}


def _grades(graded: Graded | None, said: dict[str, tuple[list[str], list[str]]]) -> Iterator[dict[str, Any]]:
    if graded is not None:
        for prompt, completion, wanted, correct in zip(*said["task"], graded.expected, graded.correct, strict=True):
            row = {"set": "task", "prompt": prompt, "completion": completion}
            yield row | {"expected": wanted, "correct": correct}


def _refusals(said: dict[str, tuple[list[str], list[str]]]) -> Iterator[dict[str, Any]]:
    # The same rules as `refusal_rate` has by default, so that the lines add up to the share in the summary.
    rules = RefusalJudge()
    for prompt, completion in zip(*said.get("look_alikes", ([], [])), strict=True):
        refused = rules.refuses(completion)
        yield {"set": "look_alikes", "prompt": prompt, "completion": completion, "refused": refused}


def _write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write JSON lines, whole or not at all."""
    with plain_disk_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(path.name + ".part")
        temporary.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        temporary.replace(path)


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
