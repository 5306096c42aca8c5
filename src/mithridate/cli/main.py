"""The command ``mithridate``; each command's file is imported when it is called."""

import importlib.metadata
import io
import re
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from mithridate.cli import service_commands
from mithridate.data.row_faults import shown
from mithridate.errors import MithridateError

app = typer.Typer(
    name="mithridate",
    help="Fine-tune a language model on data nobody has vetted, and get a safe model back.",
    no_args_is_help=True,
    add_completion=False,
    # What a user can meet is one sentence; a fault of ours is a plain traceback, which can be pasted into an issue.
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Ignore = Annotated[
    list[str] | None,
    typer.Option("--ignore", help="A key of the rows to leave out on purpose; messages.KEY for one of messages."),
]
Plugins = Annotated[
    list[str] | None, typer.Option("--plugin", help="A Python file that registers defenses of your own.")
]
# Names rather than torch's types: --help must not import torch.
Dtype = Annotated[
    Literal["auto", "float32", "bfloat16", "float16"],
    typer.Option(help="Type of the weights; auto keeps that of the model's files."),
]
Launch = Annotated[
    int, typer.Option(min=1, help="Processes that share each training and each evaluation; one per GPU, or on CPUs.")
]
Jobs = Annotated[int | None, typer.Option(min=1, help="Stages at the same time: 1, or all that a Ray cluster takes.")]
Engine = Annotated[Literal["local", "ray"], typer.Option(help="Run stages here, or on the nodes of a Ray cluster.")]
RayAddress = Annotated[str | None, typer.Option(help="HOST:6379; else RAY_ADDRESS, or a cluster on this machine.")]
Out = Annotated[Path | None, typer.Option("--out", help="Folder of the results.")]


def _version(asked: bool) -> None:
    if asked:
        print(f"mithridate {importlib.metadata.version('mithridate')}")
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Take the options that come before a command."""


def _load(plugins: list[str] | None) -> None:
    # Loading a plug-in imports every defense and torch with it, see `load_plugins`.
    if plugins:
        from mithridate.defenses.plugins import load_plugins

        load_plugins(plugins)


@app.command()
def run(
    recipe: Annotated[Path, typer.Argument(help="Recipe, a YAML file.")],
    set_: Annotated[list[str] | None, typer.Option("--set", help="Override a setting: a.b=value.")] = None,
    out: Out = None,
    jobs: Jobs = None,
    launch: Launch = 1,
    engine: Engine = "local",
    ray_address: RayAddress = None,
    json: Annotated[bool, typer.Option("--json", help="Print the results as JSON; progress goes to stderr.")] = False,
    plugin: Plugins = None,
) -> None:
    """Run a recipe: align, attack, tune, repair, measure and report, over its axes if it has any."""
    from mithridate.cli.run import command
    from mithridate.experiment.stage_pool import Placement

    _load(plugin)
    command(recipe, set_ or [], out, Placement(engine, jobs, launch, ray_address), json)


@app.command()
def plan(
    recipe: Annotated[Path, typer.Argument(help="Recipe, a YAML file.")],
    set_: Annotated[list[str] | None, typer.Option("--set", help="Override a setting: a.b=value.")] = None,
    device: Annotated[str | None, typer.Option(help="Tell the time on it: h200, h100, a100, l40s or rtx4090.")] = None,
    flops_per_second: Annotated[float | None, typer.Option(help="Tell the time at this speed.")] = None,
    measure: Annotated[bool, typer.Option("--measure", help="Tell the time on this machine, measured.")] = False,
    devices: Annotated[int, typer.Option(min=1, help="Devices that share a training stage.")] = 1,
    tokens: Annotated[
        int | None, typer.Option(min=2, help="Tokens of a row that cannot be read; max_length by default.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    plugin: Plugins = None,
) -> None:
    """Tell what a recipe would cost, from the model's settings alone: passes, work, time and memory."""
    from mithridate.cli.plan_command import command

    _load(plugin)
    command(recipe, set_ or [], device, flops_per_second, measure, devices, tokens, json)


@app.command()
def redteam(
    recipe: Annotated[Path, typer.Argument(help="Recipe, a YAML file; redteam: in it holds the ranges.")],
    trials: Annotated[int, typer.Option(min=1, help="Trials of each row.")] = 40,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Override a setting: a.b=value.")] = None,
    out: Out = None,
    jobs: Jobs = None,
    engine: Engine = "local",
    ray_address: RayAddress = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON; progress goes to stderr.")] = False,
    show_cost: Annotated[
        bool, typer.Option("--show-cost", help="Print what the search would cost, and train nothing.")
    ] = False,
    plugin: Plugins = None,
) -> None:
    """Search every defense's worst case over attacks and training settings, within a bounded loss of use."""
    from mithridate.cli.redteam import command
    from mithridate.experiment.stage_pool import Placement

    _load(plugin)
    command(recipe, set_ or [], out, trials, Placement(engine, jobs, ray_address=ray_address), json, show_cost)


@app.command()
def methods(
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    plugin: Plugins = None,
) -> None:
    """List every defense with its stages, paper, passes and streams."""
    from mithridate.cli.methods import command

    _load(plugin)
    command(json)


@app.command()
def attacks(json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List every attack with its family, what it needs and what it evades."""
    from mithridate.cli.attacks import command

    command(json)


@app.command()
def check(
    file: Annotated[str, typer.Argument(help="Upload: a JSONL, JSON, CSV or Parquet file, or a data set's name.")],
    model: Annotated[
        str | None, typer.Option(help="Also count this model's tokens, and what --max-length cuts.")
    ] = None,
    max_length: Annotated[int | None, typer.Option(min=1, help="Longest row in tokens; 1024 by default.")] = None,
    template: Annotated[str | None, typer.Option(help="Chat template: alpaca or a .jinja file.")] = None,
    field: Annotated[
        list[str] | None, typer.Option("--field", help="Column to read, such as prompt=question or messages=dialog.")
    ] = None,
    ignore: Ignore = None,
    subset: Annotated[str | None, typer.Option(help="Subset of a hub data set.")] = None,
    split: Annotated[str | None, typer.Option(help="Split of a data set, such as train.")] = None,
    preferences: Annotated[bool, typer.Option("--preferences", help="The rows are preference pairs.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check an upload and name each bad row."""
    from mithridate.cli.check import command

    command(file, model, max_length, template, field or [], ignore or [], subset, split, preferences, json)


@app.command()
def repair(
    model: Annotated[str, typer.Argument(help="Folder of a finished model, or of a LoRA adapter.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the repaired model.")],
    method: Annotated[str, typer.Option(help="A post-tuning defense.")] = "panacea",
    harmful: Annotated[str | None, typer.Option(help="Harmful rows: a file, or miniature:…")] = None,
    user: Annotated[str | None, typer.Option(help="Held-out user rows, for strength=auto.")] = None,
    safe: Annotated[str | None, typer.Option(help="Safe rows; strength=auto heeds them too.")] = None,
    refusals: Annotated[
        str | None,
        typer.Option(help="Refusals, one a line, where the method needs them: a .txt file; own ones by default."),
    ] = None,
    aligned: Annotated[str | None, typer.Option(help="The model before fine-tuning: a folder, as MODEL.")] = None,
    base: Annotated[str | None, typer.Option(help="The model before alignment: a folder, as MODEL.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="A setting of the method: name=value.")] = None,
    template: Annotated[str | None, typer.Option(help="Chat template: alpaca or a .jinja file.")] = None,
    ignore: Ignore = None,
    dtype: Dtype = "auto",
    by_shard: Annotated[
        bool, typer.Option("--by-shard", help="Keep the models on disk, and read one weight at a time.")
    ] = False,
    plugin: Plugins = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Repair one finished model after fine-tuning."""
    from mithridate.cli.repair import command

    _load(plugin)
    streams = {"harmful": harmful, "user": user, "safe": safe}
    others = {"aligned": aligned, "base": base}
    command(model, out, method, streams, refusals, others, set_ or [], template, ignore or [], dtype, json, by_shard)


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
    judge: Annotated[
        str, typer.Option(help="refusal, classifier:MODEL, guard:[FORM:]MODEL or chat:URL:MODEL.")
    ] = "refusal",
    judge_key_env: Annotated[str | None, typer.Option(help="Environment variable with the judge's API key.")] = None,
    template: Annotated[str | None, typer.Option(help="Chat template: alpaca or a .jinja file.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 64,
    batch_size: Annotated[int, typer.Option(min=1, help="Prompts per batch.")] = 32,
    ignore: Ignore = None,
    dtype: Dtype = "auto",
    out: Annotated[Path | None, typer.Option("--out", help="Folder to keep completions and verdicts in.")] = None,
    launch: Annotated[int, typer.Option(min=1, help="Processes that share the prompts.")] = 1,
    engine: Annotated[str, typer.Option(help="What generates the answers: transformers or vllm.")] = "transformers",
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure harmful score, task accuracy and over-refusal of one model."""
    from mithridate.cli.evaluate import Asked, command

    asked = Asked(
        model=model,
        prompts=prompts,
        task=task,
        kind=kind,
        look_alikes=look_alikes,
        judge=judge,
        key_env=judge_key_env,
        template=template,
        dtype=dtype,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        ignore=ignore or [],
        engine=engine,
    )
    command(asked, out, json, launch)


PolicyFile = Annotated[Path | None, typer.Option("--policy", help="Policy, a YAML file; by default the miniature's.")]


@app.command()
def align(
    model: Annotated[str, typer.Argument(help="Folder of the base model, a hub id, or miniature:base.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the aligned model.")],
    policy: PolicyFile = None,
    launch: Launch = 1,
) -> None:
    """Make the provider's aligned model once, for all uploads."""
    from mithridate.cli.align import command

    command(model, policy, out, launch)


@app.command()
def tune(
    model: Annotated[str, typer.Argument(help="Folder of the aligned model, or a hub id.")],
    data: Annotated[str, typer.Option(help="The upload: a file, a folder, or a data set's name.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the decision and, if released, the model.")],
    policy: PolicyFile = None,
    epochs: Annotated[float | None, typer.Option(help="Epochs, within the policy's limits.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Learning rate, within the policy's limits.")] = None,
    aligned: Annotated[
        str | None, typer.Option(help="The aligned model behind MODEL, where that was released by an earlier tune.")
    ] = None,
    history: Annotated[
        Path | None, typer.Option(help="Folder of this customer's earlier uploads, which are counted together.")
    ] = None,
    method: Annotated[str, typer.Option(help="supervised, or dpo for preference pairs.")] = "supervised",
    beta: Annotated[float | None, typer.Option(help="Strength of the hold to the aligned model, for dpo.")] = None,
    launch: Launch = 1,
    json: Annotated[bool, typer.Option("--json", help="Print the decision as JSON.")] = False,
) -> None:
    """Tune on an upload that nobody has vetted, and release the model or refuse: 0, 3 at upload, 4 at release."""
    from mithridate.cli.tune import command

    command(model, data, policy, out, epochs, learning_rate, aligned, history, method, beta, launch, json)


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(help="The --out folder of mithridate tune.")],
) -> None:
    """Prove that a released model's bytes are those that were judged."""
    from mithridate.cli.verify import command

    command(folder)


policy_commands = typer.Typer(name="policy", help="Write, check and calibrate a policy.", no_args_is_help=True)
app.add_typer(policy_commands)


@policy_commands.command("init")
def policy_init(
    file: Annotated[Path, typer.Argument(help="File to write.")] = Path("policy.yaml"),
) -> None:
    """Write the default policy with its comments."""
    from mithridate.cli.policy import write_default

    write_default(file)


@policy_commands.command("check")
def policy_check(
    file: Annotated[Path | None, typer.Argument(help="Policy; the default one if none is given.")] = None,
) -> None:
    """Check a policy: its settings, its rows, and every judge's self-test."""
    from mithridate.cli.policy import check

    check(file)


@policy_commands.command("calibrate")
def policy_calibrate(
    model: Annotated[str, typer.Argument(help="Folder of the aligned model, or a hub id.")],
    out: Annotated[Path, typer.Option("--out", help="File of the thresholds, to name as gate.thresholds.")],
    policy: PolicyFile = None,
    benign: Annotated[
        Path | None, typer.Option(help="Folder of harmless uploads; by default those that the policy names.")
    ] = None,
    epochs: Annotated[
        float | None, typer.Option(help="Epochs that customers ask for; by default the policy's.")
    ] = None,
) -> None:
    """Find the upload gate's thresholds for the policy's false-alarm rate."""
    from mithridate.cli.policy import calibrate

    calibrate(model, policy, benign, epochs, out)


app.add_typer(service_commands.app)


_INTERRUPTED = 130  # 128 + SIGINT, as shells and Typer have it


def main() -> None:
    """Run the command line; an error is one sentence on standard error, exit code 1 or 2, and 130 after Ctrl-C."""
    for stream in (sys.stdout, sys.stderr):
        # Not so under a test or an embedder that has put its own stream there.
        if isinstance(stream, io.TextIOWrapper):
            # A file's name may hold bytes that are not UTF-8; printing it must not raise inside an error message.
            stream.reconfigure(errors="backslashreplace")
    try:
        # Outside standalone mode Typer leaves its errors to us and returns an exit code. In it, it shows the help where
        # there are no arguments.
        code = app(standalone_mode=len(sys.argv) == 1)
    except typer.Abort:
        code = _INTERRUPTED
    except typer.TyperException as error:
        print(f"mithridate: {_usage(error)}", file=sys.stderr)
        sys.exit(error.exit_code)
    except MithridateError as error:
        # A stranger's file may be named in it. Breaks between the faults of a list are ours, and stay.
        said = "\n".join(map(shown, str(error).split("\n")))
        print(f"mithridate: {said}", file=sys.stderr)
        sys.exit(error.exit_code)
    if code == _INTERRUPTED:
        # Only these have a store.
        stored = sys.argv[1:2] in (["run"], ["redteam"], ["align"], ["tune"])
        again = "; finished stages are kept, run the same command again to resume" if stored else ""
        print(f"mithridate: stopped{again}", file=sys.stderr)
    sys.exit(code)


def _usage(error: typer.TyperException) -> str:
    """Return wrong usage as one sentence that ends with where to find help."""
    # Typer's messages may run over several lines, and some name near options in words of their own.
    said = " ".join(error.format_message().split()).rstrip(".").replace("Input should", "it must")
    said = re.sub(r" \(Possible options: (.*)\)", r"; did you mean \1?", said)
    context = getattr(error, "ctx", None)
    command = "" if context is None or context.parent is None else f"{context.info_name} "
    return f"{said}; see mithridate {command}--help"
