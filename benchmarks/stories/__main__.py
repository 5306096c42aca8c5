"""Makes the world of stories and measures in it.

    python -m benchmarks.stories make --out runs/stories/world

Reads the folder of third-party data and models, MITHRIDATE_DATA, and writes rows as JSONL and the base model.
"""

import json
import os
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.stories.base_model import story_model, teach
from benchmarks.stories.passages import read_stories
from benchmarks.stories.requests import Row
from benchmarks.stories.streams import draw
from mithridate.errors import UsageError

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


def write_rows(rows: dict[str, list[Row]], folder: Path) -> None:
    """Write every set of rows as one JSONL file."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, found in rows.items():
        lines = "".join(json.dumps(row) + "\n" for row in found)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")


def make(out: Path, model: str, scale: float) -> None:
    """Write the rows and the base model."""
    data = data_folder()
    rows = draw(read_stories(data / STORIES), scale)
    write_rows(rows, out / "rows")
    taught, tokenizer = story_model(data / MODELS / model)
    with TemporaryDirectory(dir=out) as scratch:
        teach(taught, tokenizer, rows["base"], Path(scratch))
    taught.save_pretrained(out / "base")
    tokenizer.save_pretrained(out / "base")


def main(arguments: Sequence[str] | None = None) -> None:
    """Do what the command line says."""
    parser = ArgumentParser(prog="python -m benchmarks.stories", description=(__doc__ or "").partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("make", help="write the rows and the base model")
    making.add_argument("--out", type=Path, required=True, help="folder of the world")
    making.add_argument("--model", default="bitstories3m", help="story model, a folder of MITHRIDATE_DATA/models")
    making.add_argument("--scale", type=float, default=1.0, help="size of every set of rows relative to its full one")
    options = parser.parse_args(arguments)
    make(options.out, options.model, options.scale)


if __name__ == "__main__":
    main()
