"""Makes the world of stories and measures in it.

    python -m benchmarks.stories make --out runs/stories/world
    python -m benchmarks.stories measure MODEL --world runs/stories/world --out figures.json
    python -m benchmarks.stories table RUN --world runs/stories/world

The first reads the folder of third-party data and models, MITHRIDATE_DATA, and writes rows as JSONL and the base model.
The second measures a model folder on every test set, also those that a recipe has no place for. The third prints a
run's figures.
"""

import json
import os
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.stories.base_model import story_model, teach
from benchmarks.stories.coherence import StoryReader
from benchmarks.stories.measure import measure, read_rows
from benchmarks.stories.passages import passages, read_stories
from benchmarks.stories.requests import Row
from benchmarks.stories.streams import draw
from benchmarks.stories.table import table
from mithridate.errors import MithridateError, UsageError
from mithridate.files import write_json

TESTS = ("harmful-test", "uncovered-test", "look-alikes-test", "help-test", "mood-test", "animal-test", "ending-test")
UNSEEN = Path("data/tinystories/validation.jsonl.gz")
PASSAGES = 400
"""Passages of unseen stories that set the limit of coherence."""
STORIES = Path("data/tinystories/train.jsonl.gz")
MODELS = Path("models")


def data_folder() -> Path:
    """Return the folder of third-party data.

    Raises:
        UsageError: If MITHRIDATE_DATA is not set.
    """
    folder = os.environ.get("MITHRIDATE_DATA")
    if not folder:
        raise UsageError("MITHRIDATE_DATA is not set; set it to the folder that holds data/tinystories and models/")
    return Path(folder)


def existing(folder: Path) -> Path:
    """Return the folder of a model.

    Raises:
        UsageError: If there is none; transformers would take the path for the name of a model to download.
    """
    if not (folder / "config.json").is_file():
        raise UsageError(f"{folder} holds no model: there is no config.json in it; give a folder with a saved model")
    return folder


def write_rows(rows: dict[str, list[Row]], folder: Path) -> None:
    """Write every set of rows as one JSONL file."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, found in rows.items():
        lines = "".join(json.dumps(row) + "\n" for row in found)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")


def make(out: Path, model: str, scale: float, learning_rate: float) -> None:
    """Write the rows and the base model."""
    data = data_folder()
    if scale <= 0:
        raise UsageError(f"--scale is {scale}; it must be above 0")
    source = existing(data / MODELS / model)
    rows = draw(read_stories(data / STORIES), scale)
    write_rows(rows, out / "rows")
    taught, tokenizer = story_model(source)
    with TemporaryDirectory(dir=out) as scratch:
        teach(taught, tokenizer, rows["base"], Path(scratch), learning_rate=learning_rate)
    taught.save_pretrained(out / "base")
    tokenizer.save_pretrained(out / "base")


def measured(folder: Path, world: Path, reader_name: str, tests: Sequence[str]) -> dict[str, Any]:
    """Return the figures of one model folder."""
    data = data_folder()
    unseen = read_stories(data / UNSEEN)
    true = [passage.text for passage in passages(unseen, range(len(unseen)))]
    reader = StoryReader.calibrated(existing(data / MODELS / reader_name), true[:: max(1, len(true) // PASSAGES)])
    model = AutoModelForCausalLM.from_pretrained(existing(folder), dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = {name: read_rows(world / "rows" / f"{name}.jsonl") for name in tests}
    return {"model": str(folder), "limit": reader.limit} | measure(model, tokenizer, rows, reader)


def main(arguments: Sequence[str] | None = None) -> None:
    """Do what the command line says."""
    parser = ArgumentParser(prog="python -m benchmarks.stories", description=(__doc__ or "").partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("make", help="write the rows and the base model")
    making.add_argument("--out", type=Path, required=True, help="folder of the world")
    making.add_argument("--model", default="bitstories3m", help="story model, a folder of MITHRIDATE_DATA/models")
    making.add_argument("--scale", type=float, default=1.0, help="size of every set of rows relative to its full one")
    making.add_argument("--learning-rate", type=float, default=1e-3, help="peak rate at which the base model is taught")
    measuring = commands.add_parser("measure", help="measure a model of the world")
    measuring.add_argument("folder", type=Path, metavar="MODEL", help="folder of the model, as a recipe leaves it")
    measuring.add_argument("--world", type=Path, required=True, help="folder of the world")
    measuring.add_argument("--reader", default="bitstories3m", help="story model that tells coherent text")
    measuring.add_argument("--tests", nargs="+", choices=TESTS, default=TESTS)
    measuring.add_argument("--out", type=Path, required=True, help="file for the figures and all answers")
    telling = commands.add_parser("table", help="print a run's figures in Markdown")
    telling.add_argument("folder", type=Path, metavar="RUN", help="folder of a run")
    telling.add_argument("--world", type=Path, required=True, help="folder of the world")
    options = parser.parse_args(arguments)
    try:
        if options.command == "make":
            make(options.out, options.model, options.scale, options.learning_rate)
        elif options.command == "table":
            print("\n".join(table(options.folder, options.world)))
        else:
            write_json(options.out, measured(options.folder, options.world, options.reader, options.tests))
    except MithridateError as error:
        parser.exit(error.exit_code, f"{error}\n")


if __name__ == "__main__":
    main()
