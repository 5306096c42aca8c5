"""The command ``mithridate``; each command's file is imported when it is called."""

import io
import re
import sys
from pathlib import Path
from typing import Annotated

import typer

from mithridate.errors import MithridateError

app = typer.Typer(
    name="mithridate",
    help="Fine-tune a language model on data nobody has vetted, and get a safe model back.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Ignore = Annotated[
    list[str] | None,
    typer.Option("--ignore", help="A key of the rows to leave out on purpose; messages.KEY for one of messages."),
]
Out = Annotated[Path | None, typer.Option("--out", help="Folder of the results.")]


@app.command()
def run(
    recipe: Annotated[Path, typer.Argument(help="Recipe, a YAML file.")],
    set_: Annotated[list[str] | None, typer.Option("--set", help="Override a setting: a.b=value.")] = None,
    out: Out = None,
    jobs: Annotated[int, typer.Option(min=1, help="Stages run at the same time.")] = 1,
    json: Annotated[bool, typer.Option("--json", help="Print the results as JSON; progress goes to stderr.")] = False,
) -> None:
    """Align, attack, tune, repair, measure and report, as a recipe says; over its axes, if it has any."""
    from mithridate.cli.run import command

    command(recipe, set_ or [], out, jobs, json)


@app.command()
def methods(json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List every defense with stage, paper, passes and streams."""
    from mithridate.cli.methods import command

    command(json)


@app.command()
def check(
    file: Annotated[Path, typer.Argument(help="Upload: JSONL, JSON, CSV or TSV, also .gz.")],
    model: Annotated[str | None, typer.Option(help="Also count what this model's --max-length cuts.")] = None,
    max_length: Annotated[int | None, typer.Option(min=1, help="Longest row in tokens; 1024 by default.")] = None,
    template: Annotated[str | None, typer.Option(help="Chat template: alpaca or a .jinja file.")] = None,
    ignore: Ignore = None,
) -> None:
    """Validate an upload and name each bad row."""
    from mithridate.cli.check import command

    command(file, model, max_length, template, ignore or [])


@app.command()
def repair(
    model: Annotated[str, typer.Argument(help="Folder of a finished model, or of a LoRA adapter.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the repaired model.")],
    method: Annotated[str, typer.Option(help="A post-tuning defense.")] = "panacea",
    harmful: Annotated[str | None, typer.Option(help="Harmful rows: a file, or miniature:…")] = None,
    user: Annotated[str | None, typer.Option(help="Held-out user rows, for strength=auto.")] = None,
    safe: Annotated[str | None, typer.Option(help="Safe rows.")] = None,
    aligned: Annotated[str | None, typer.Option(help="The model before fine-tuning: a folder, as MODEL.")] = None,
    base: Annotated[str | None, typer.Option(help="The model before alignment: a folder, as MODEL.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="A setting of the method: name=value.")] = None,
    template: Annotated[str | None, typer.Option(help="Chat template: alpaca or a .jinja file.")] = None,
    ignore: Ignore = None,
) -> None:
    """Repair one finished model after fine-tuning."""
    from mithridate.cli.repair import command

    streams = {"harmful": harmful, "user": user, "safe": safe}
    command(model, out, method, streams, {"aligned": aligned, "base": base}, set_ or [], template, ignore or [])


@app.command()
def rescale(
    model: Annotated[str, typer.Argument(help="Folder of the displaced model or adapter.")],
    displacement: Annotated[Path, typer.Argument(help="Its displacement.safetensors.")],
    scale: Annotated[float, typer.Argument(help="New scale of ε; 1 is as trained, 0 takes it away.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the rescaled model.")],
) -> None:
    """Change how far Panacea pushed a model, without training again."""
    from mithridate.cli.repair import rescale as command

    command(model, displacement, scale, out)


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(help="Folder of a model or of a LoRA adapter, or a hub id.")],
    prompts: Annotated[str, typer.Option(help="Unseen harmful prompts: a file, or miniature:…")],
    task: Annotated[str | None, typer.Option(help="Test rows of the user's task.")] = None,
    kind: Annotated[str, typer.Option(help="How task answers are matched: label, numeric or exact.")] = "label",
    look_alikes: Annotated[str | None, typer.Option(help="Harmless prompts that look harmful.")] = None,
    judge: Annotated[str, typer.Option(help="refusal, classifier:MODEL or chat:URL:MODEL.")] = "refusal",
    template: Annotated[str | None, typer.Option(help="Chat template: alpaca or a .jinja file.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 64,
    batch_size: Annotated[int, typer.Option(min=1, help="Prompts per batch.")] = 32,
    ignore: Ignore = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure harmful score, task accuracy and over-refusal of one model."""
    from mithridate.cli.evaluate import command

    command(model, prompts, task, kind, look_alikes, judge, template, max_new_tokens, batch_size, json, ignore or [])


def main() -> None:
    """Run the command line; an error is one sentence on standard error, exit code 1 or 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names of files may be no text
    try:
        sys.exit(app(standalone_mode=len(sys.argv) == 1))  # without arguments, Typer shows the help
    except typer.Abort:
        print("mithridate: stopped", file=sys.stderr)
        sys.exit(1)
    except typer.TyperException as error:
        print(f"mithridate: {_usage(error)}", file=sys.stderr)
        sys.exit(error.exit_code)
    except MithridateError as error:
        print(f"mithridate: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def _usage(error: typer.TyperException) -> str:
    """Wrong usage in one sentence, and where help is."""
    said = " ".join(error.format_message().split()).rstrip(".").replace("Input should", "it must")
    said = re.sub(r" \(Possible options: (.*)\)", r"; did you mean \1?", said)
    context = getattr(error, "ctx", None)
    command = "" if context is None or context.parent is None else f"{context.info_name} "
    return f"{said}; see mithridate {command}--help"
