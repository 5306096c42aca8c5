"""Keep of a run what the cards' checks read.

    python -m tools.keep_results runs/cards/results.json docs/results/cards/fresh.json

Samples, answers, curves and row weights are left out; they are nine tenths of the file.
"""

from pathlib import Path
from typing import Annotated, Any

import typer

from mithridate.files import write_json
from mithridate.report.results import Results
from mithridate.report.results_file import load_results

OF_RUN = ("name", "created", "command", "versions", "hashes", "recipe", "seeds", "judge", "majority", "failures")
OF_VARIANT = (
    *("name", "alignment", "finetuning", "posttuning", "attack", "seeds", "versus_reference", "activity"),
    *("harmful_score", "finetune_accuracy", "over_refusal", "harmful_score_by_group", "helpfulness", "broken_harmful"),
    "release",
)


def kept(results: Results) -> dict[str, Any]:
    """Return the parts of a run that the cards read."""
    tree = results.model_dump(mode="json", exclude_none=True)
    variants = [
        {key: variant[key] for key in OF_VARIANT if key in variant} | {"layer_profiles": variant["layer_profiles"]}
        for variant in tree["variants"]
    ]
    return {key: tree[key] for key in OF_RUN if key in tree} | {"variants": variants}


def main(
    run: Annotated[Path, typer.Argument(help="results.json of a run.")],
    target: Annotated[Path, typer.Argument(help="File in the repository.")],
) -> None:
    """Write the file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    write_json(target, kept(load_results(run)))


if __name__ == "__main__":
    typer.run(main)
