r"""How far the harmful loss falls over the simulated attack step of Antibody's alignment, Booster and Panacea.

    python -m benchmarks.radius_scale recipes/methods.yaml \
        --models '$MITHRIDATE_DATA/models/stories260k' --template alpaca --out docs/results/radius_scale.json

The step is w_ρ = w − ρ·∇h(w)/‖∇h(w)‖, h the mean token loss of the provider's harmful rows. Figures are h(w), ‖w‖ of
the weights that are trained, ‖∇h(w)‖, and h(w) − h(w_ρ) for ρ at shares of ‖w‖, and at lengths that recipes and papers
have: for all weights and for a fresh adapter of the recipe's base and of other models, and for the adapter that the
recipe's alignment by plain SFT leaves.
"""

import tempfile
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model

from benchmarks.measure import report, rounded
from mithridate.experiment.inputs import Inputs
from mithridate.experiment.jobs import TrainingJob
from mithridate.experiment.plan import Plan
from mithridate.experiment.recipe_file import read_recipe
from mithridate.experiment.row_files import stored_rows
from mithridate.experiment.stage_folder import where_is
from mithridate.experiment.training_stage import lora_config, train
from mithridate.experiment.workers import quiet_libraries
from mithridate.model_names import locate
from mithridate.models.loading import Where, load, load_tokenizer
from mithridate.models.tokenization import tokenize
from mithridate.training.row_stream import Stream
from mithridate.training.scoring import Likelihood
from mithridate.training.step import Step
from mithridate.training.step_rows import Clock
from mithridate.training.trainable_weights import Weights

SHARES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
"""ρ as a share of ‖w‖."""
RADII = (0.02, 0.1)
"""ρ of the recipes, and the papers'."""


def falls(model: Any, examples: Sequence[Any], pad: int, shares: Sequence[float], radii: Sequence[float]) -> Any:
    """Return norms, h(w), and how far h falls at every length of the step, in nats per token.

    Args:
        model: Whose trainable weights are moved; they are put back.
        examples: Tokenized harmful rows.
        pad: Padding token.
        shares: Lengths as shares of ‖w‖.
        radii: Lengths.
    """
    model.eval()
    step = Step(
        main="safe", micro_batches=[], likelihood=Likelihood(model, Weights(model)),
        streams={"harmful": Stream(examples, len(examples), 0)}, refusals=[], micro_batch_size=16, pad_token_id=pad,
        clock=Clock(),
    )  # fmt: skip

    def loss() -> float:
        scored = step.score("harmful")
        return sum(float(rows.nll.double().sum()) for rows in scored) / step.totals("harmful").tokens

    gradient, length = step.gradient("harmful"), step.position.norm()
    before, steps = loss(), []
    for radius in sorted([*(share * length for share in shares), *radii]):
        with step.moved(-radius * gradient.unit()):
            steps.append({"share": rounded(radius / length), "radius": rounded(radius), "fall": before - loss()})
    return {"loss": before, "weights": rounded(length), "gradient": rounded(gradient.norm()), "steps": steps}


def main(arguments: Sequence[str] | None = None) -> None:
    """Align, measure, and print JSON."""
    parser = ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--models", nargs="*", default=[], help="other models, with the recipe's rows and adapter")
    parser.add_argument("--template", help="chat template of these, where they have none")
    parser.add_argument("--rows", type=int, default=64, help="harmful rows, the first ones")
    parser.add_argument("--out", type=Path, help="file for the JSON, beside standard output")
    options = parser.parse_args(arguments)
    quiet_libraries()
    torch.set_num_threads(1)
    recipe = read_recipe(options.recipe)
    with tempfile.TemporaryDirectory() as folder:
        stages = Plan(recipe, Inputs(recipe, options.recipe.parent, Path(folder))).nodes.values()
        jobs = [node.job for node in stages if isinstance(node.job, TrainingJob) and node.job.stage == "alignment"]
        job = next(job for job in jobs if job.method == "sft")
        provider = next(job.provider for job in jobs if job.provider.harmful is not None)
        assert provider.harmful is not None
        harmful = stored_rows(provider.harmful).select(range(options.rows))
        figures = []

        def add(name: str, form: str, model: Any, words: Any) -> None:
            found = falls(model, tokenize(harmful, words), words.pad_token_id, SHARES, RADII)
            figures.append({"model": name, "form": form} | found)
            print(figures[-1], flush=True)

        for name in (job.model, *map(locate, options.models)):
            template = job.template if name == job.model else options.template
            where, words = Where(name, None), load_tokenizer(name, template)
            called = Path(name).name
            add(called, "all weights", load(where, "float32", trainable=True), words)
            torch.manual_seed(0)
            fresh = get_peft_model(load(where, "float32", trainable=True), lora_config(job.lora))
            add(called, "adapter, fresh", fresh, words)
        aligned = Path(folder) / "aligned"
        train(job.model_copy(update={"adapter": "continue"}), Where(job.model, None), aligned, lambda done, total: None)
        model = load(where_is(job.model, [aligned]), "float32", trainable=True)
        add(Path(job.model).name, "adapter, aligned", model, load_tokenizer(job.model, job.template))
    report("radius_scale", options, "cpu", figures)


if __name__ == "__main__":
    main()
