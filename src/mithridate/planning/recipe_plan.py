"""Plans a recipe: what each of its stages costs, each stage once, from the model's settings alone."""

import tempfile
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from mithridate.errors import ModelError, UsageError
from mithridate.experiment.engine import checked_recipe
from mithridate.experiment.plan import Plan
from mithridate.experiment.recipe import Recipe
from mithridate.experiment.recipe_rows import with_data_folder
from mithridate.experiment.workers import quiet_libraries
from mithridate.model_names import loading_errors, locate, path_of
from mithridate.models.loading import load_tokenizer
from mithridate.planning.device_speed import DeviceSpeed, device_speed, stated_speed
from mithridate.planning.plan_records import NOTHING, PlannedStage, PlannedVariant, RecipePlan, Span
from mithridate.planning.planned_inputs import PlannedInputs
from mithridate.planning.planned_stages import PlannedModel, StagePlanner
from mithridate.planning.published_figures import published
from mithridate.planning.row_tokens import RowLengths


def plan(
    recipe: str | Path | dict[str, Any] | Recipe,
    *,
    overrides: list[str] | None = None,
    device: str | None = None,
    flops_per_second: float | None = None,
    measure: bool = False,
    devices: int = 1,
    tokens: int | None = None,
) -> RecipePlan:
    """Tell what a recipe will cost; nothing is trained, and of the model only its settings are read.

    Args:
        recipe: A file, a tree of settings, or a checked recipe.
        overrides: ``a.b=value`` settings, for a file.
        device: Device that it is to run on, such as ``h200``; at most one of this and the next two is given.
        flops_per_second: Operations per second that are reached.
        measure: Measure this machine with a few passes of the model with random weights.
        devices: Devices that share a training stage.
        tokens: Tokens of a row that cannot be read; ``max_length`` by default.

    Returns:
        Steps, passes, tokens, work, time and memory of every stage, with what they rest on.

    Raises:
        RecipeError: If the recipe has a fault.
        ModelError: If the model's settings cannot be read.
        UsageError: If arguments contradict each other.
    """
    if sum([device is not None, flops_per_second is not None, measure]) > 1:
        raise UsageError("give one of device, flops_per_second and measure; each of them tells the speed")
    if devices < 1:
        raise UsageError(f"devices must be at least 1, got {devices}")
    if tokens is not None and tokens < 2:
        raise UsageError(f"tokens must be at least 2, got {tokens}")
    # Before any file is read, which takes seconds.
    speed = device_speed(device) if device is not None else None
    speed = speed if flops_per_second is None else stated_speed(flops_per_second)
    base = Path(recipe).parent if isinstance(recipe, (str, Path)) else Path()
    checked = checked_recipe(recipe, overrides or [])
    quiet_libraries()
    place = _settings_of(checked)
    with tempfile.TemporaryDirectory(prefix="plan-") as folder:
        inputs = PlannedInputs(checked, base, Path(folder))
        stages = Plan(checked, inputs, place)
        tokenizer, lacking = _tokenizer(checked, place)
        lengths = RowLengths(tokenizer, checked.max_length, inputs.assumed, tokens or checked.max_length)
        model = PlannedModel(_config(place), checked, place)
        planner = StagePlanner(model, lengths, devices)
        speed = planner.measured(stages) if measure else speed
        users = _users(stages)
        planned = [planner.stage(node, users[node.key], speed) for node in stages.nodes.values()]
    return RecipePlan(
        name=checked.name,
        model=checked.model,
        parameters=model.work().parameters,
        trainable=model.work().trainable,
        speed=None if speed is None else speed.name,
        devices=devices,
        stages=planned,
        variants=[_variant(variant, planned) for variant in checked.variants],
        flops=_sum(stage.flops for stage in planned),
        seconds=None if speed is None else _sum(stage.seconds or NOTHING for stage in planned),
        device_hours=None if speed is None else _sum(_hours(stage, devices) for stage in planned),
        assumptions=[
            *lacking,
            *inputs.reasons,
            *assumptions(devices, speed, inputs, lengths.assumed_tokens),
            *_answering(checked),
        ],
    )


def assumptions(devices: int, speed: DeviceSpeed | None, inputs: PlannedInputs, tokens: int) -> list[str]:
    """Return what the figures of any plan rest on, a sentence each."""
    found = [
        "answers are taken to be as long as they may be, so evaluations cost at most what is told",
        "a search tries some number of doses that is told as a span; the judge's own work, loading, and reading and "
        "writing of weights by repairs are left out",
    ]
    if inputs.assumed:
        found.append(f"rows that cannot be read are taken to have {tokens} tokens")
    if speed is not None:
        found.append(f"time is work over {speed.name}; what a step costs beside its passes is left out")
    if devices > 1:
        found.append(f"a training shared by {devices} devices is taken to be {devices} times as fast")
    return found


def _answering(recipe: Recipe) -> list[str]:
    if recipe.evaluation.engine == "transformers":
        return []
    return ["answers are counted as transformers would generate them; what vLLM takes, to start as well, is not known"]


def _settings_of(recipe: Recipe) -> str:
    """Return the folder or hub id of the model's settings; weights need not be there."""
    name = with_data_folder(recipe.model, "model")
    path = None if name.startswith("miniature:") else path_of(name)
    return str(path) if path is not None and (path / "config.json").is_file() else locate(name)


def _config(place: str) -> Any:
    try:
        return AutoConfig.from_pretrained(place, trust_remote_code=False)
    except loading_errors() as error:
        raise ModelError(
            f"the settings of '{place}' cannot be read: {' '.join(str(error).split())[:200]}; give --set model=FOLDER, "
            "a folder that holds its config.json"
        ) from error


def _tokenizer(recipe: Recipe, place: str) -> tuple[Any | None, list[str]]:
    try:
        return load_tokenizer(place, recipe.template), []
    except ModelError as error:
        return None, [
            f"the tokenizer cannot be read, so no row's tokens are counted: {str(error).splitlines()[0][:160]}"
        ]


def _users(stages: Plan) -> dict[str, list[str]]:
    """Return the variants that use each stage, each once, in the recipe's order."""
    found: dict[str, list[str]] = {key: [] for key in stages.nodes}
    for chain in stages.chains:
        for node in chain.needed:
            if chain.variant.name not in found[node.key]:
                found[node.key].append(chain.variant.name)
    return found


def _variant(variant: Any, planned: list[PlannedStage]) -> PlannedVariant:
    own = [stage for stage in planned if variant.name in stage.variants]
    timed = all(stage.seconds is not None for stage in own)
    return PlannedVariant(
        name=variant.name,
        flops=_sum(stage.flops for stage in own),
        seconds=_sum(stage.seconds or NOTHING for stage in own) if timed else None,
        published=published(variant),
    )


def _hours(stage: PlannedStage, devices: int) -> Span:
    shared = devices if stage.stage in ("alignment", "finetuning") else 1
    return (stage.seconds or NOTHING).times(shared / 3600)


def _sum(spans: Any) -> Span:
    total = NOTHING
    for span in spans:
        total = total.plus(span)
    return total
