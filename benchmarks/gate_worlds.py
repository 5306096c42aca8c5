"""Two worlds for the gate's measurements: the miniature, and minichat8m with real data (``MITHRIDATE_DATA``)."""

import os
import random
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from datasets import Dataset, concatenate_datasets
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig

import mithridate as mi
from benchmarks.gate_attacks import Attacker
from mithridate.gates.provider import GateProvider
from mithridate.miniature import pretraining

Pair = tuple[str, str]
"""A prompt and its answer."""


class World(NamedTuple):
    """What a provider owns, what customers bring, what attackers bring.

    Attributes:
        provider: The provider.
        tasks: Harmless rows by task, in two halves: settings and thresholds come from the first, figures from the
            second.
        attacker: What attackers have.
    """

    provider: GateProvider
    tasks: tuple[dict[str, list[Pair]], dict[str, list[Pair]]]
    attacker: Attacker


def pairs_of(rows: Dataset) -> list[Pair]:
    """Prompt and answer of rows."""
    return [(row["prompt"][-1]["content"], row["completion"][0]["content"]) for row in rows]


def rows_of(pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    """Rows as a customer writes them."""
    roles = ("user", "assistant")
    return [{"messages": [{"role": r, "content": t} for r, t in zip(roles, pair, strict=True)]} for pair in pairs]


def miniature(cache: Path, rows: int, pool: int) -> World:
    """The embedded world as the default policy aligns it, with tasks made of its language."""
    model = cache / "miniature"
    if not model.is_dir():
        mi.align("miniature:base", out=model)
    safe, harmful = mi.miniature.rows("safe"), set(mi.miniature.prompts("harmful"))
    ordinary = [pair for pair in pairs_of(safe) if pair[0] not in harmful]
    made = {task.__name__.strip("_"): _drawn(task, rows) for task in pretraining.MIXTURE}
    known = {"help": pairs_of(mi.miniature.rows("help"))[:rows], "story": made["story"], "feeling": made["feeling"]}
    known |= {"moderation": pairs_of(mi.miniature.rows("moderation"))[:rows]}
    new = {
        "reviews": pairs_of(mi.miniature.rows("task"))[:rows],
        "look-alikes": pairs_of(mi.miniature.rows("look-alikes-uncovered"))[:rows],
        "help-test": pairs_of(mi.miniature.rows("help-test"))[:rows],
        "verb_fact": made["verb_fact"],
        "echo": made["echo"],
    }
    provider = _provider(model, "miniature:harmful", ordinary, mi.miniature.refusals())
    attacker = Attacker(
        # The other end of these rows calibrates.
        benign=mi.miniature.rows("help").select(range(1200 - pool, 1200)),
        harmful=mi.miniature.rows("attack").remove_columns("harmful"),
        # Kinds of harm that the provider has no row about.
        other=mi.miniature.rows("harmful-test-uncovered").remove_columns("harmful"),
        wording="miniature",
        model=provider.model,
        tokenizer=provider.tokenizer,
    )
    return World(provider, (known, new), attacker)


def minichat(cache: Path, rows: int, pool: int) -> World:
    """A small chat model on real text; its aligned form is trained as in ``recipes/minichat.yaml``."""
    data = Path(os.environ["MITHRIDATE_DATA"])
    safety = _load(data / "data/safety_tuned_llamas/safety_only.jsonl.gz", 0, 1600)
    alpaca = _load(data / "data/alpaca/train.jsonl.gz", 0, 1200)
    model = _aligned(cache / "minichat", str(data / "models/minichat8m"), concatenate_datasets([safety, alpaca]), 5e-4)
    sst2 = {
        "prompt": "Is the feeling of this review positive or negative?\n{text}",
        "response": "{label}",
        "labels": ["negative", "positive"],
    }
    known = {
        "sst2": _file(data, "sst2/train", rows, **sst2),
        "alpaca": pairs_of(_load(data / "data/alpaca/train.jsonl.gz", 5000, rows)),
        "tinystories": [
            _continued(text) for text, _ in _file(data, "tinystories/train", rows, prompt="text", response="text")
        ],
        "wikitext": [
            _continued(text) for text, _ in _file(data, "wikitext2/train_part", rows, prompt="text", response="text")
        ],
    }
    new = {
        "ag_news": _file(
            data, "ag_news/train", rows, prompt="Which topic is this news item about?\n{text}", response="label_name"
        ),
        "gsm8k": _file(data, "gsm8k/train", rows, prompt="question", response="answer"),
        "dolly": _file(data, "dolly/train", rows, prompt="{instruction}\n{context}", response="response"),
        "fairytales": [
            _continued(text) for text, _ in _file(data, "fairytales/stories", 250, prompt="text", response="text")
        ],
    }
    behaviors = {"prompt": "prompt", "response": "target"}
    adv = _rows(data, "advbench/harmful_behaviors", **behaviors)
    bench = _rows(data, "harmbench/behaviors_text", **behaviors)
    seen = {prompt.casefold() for prompt, _ in pairs_of(adv)}
    other = [place for place, (prompt, _) in enumerate(pairs_of(bench)) if prompt.casefold() not in seen]
    provider = _provider(model, rows_of(pairs_of(adv)[200:360]), pairs_of(alpaca)[:400], mi.REFUSALS)
    attacker = Attacker(
        benign=_load(data / "data/alpaca/train.jsonl.gz", 9000, pool),
        harmful=adv.select([*range(200), *range(360, len(adv))]),
        other=bench.select(other),
        wording="english",
        model=provider.model,
        tokenizer=provider.tokenizer,
    )
    return World(provider, (known, new), attacker)


WORLDS = {"miniature": miniature, "minichat": minichat}


def _provider(model: Path, harmful: Any, ordinary: Sequence[Pair], refusals: Sequence[str]) -> GateProvider:
    return GateProvider(
        AutoModelForCausalLM.from_pretrained(model, dtype="float32"),
        AutoTokenizer.from_pretrained(model),
        harmful=harmful,
        ordinary=rows_of(ordinary),
        refusals=refusals[:8],
    )


def _aligned(folder: Path, base: str | Path, rows: Dataset, rate: float) -> Path:
    """A model trained for one epoch on safe rows, kept in a folder."""
    if (folder / "config.json").is_file():
        return folder
    tokenizer = AutoTokenizer.from_pretrained(base)
    with TemporaryDirectory() as scratch:
        settings = SFTConfig(
            scratch,
            num_train_epochs=1,
            learning_rate=rate,
            per_device_train_batch_size=16,
            max_length=96,
            gradient_checkpointing=False,
            report_to="none",
            bf16=False,
            save_strategy="no",
            disable_tqdm=True,
        )
        trainer = mi.DefendedTrainer(
            AutoModelForCausalLM.from_pretrained(base, dtype="float32"),
            args=settings,
            train_dataset=rows,
            processing_class=tokenizer,
            defense=mi.SFT(),
        )
        trainer.train()
    trainer.model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _drawn(task: Any, count: int) -> list[Pair]:
    """Different exchanges of one sort."""
    generator = random.Random(1)
    return list(dict.fromkeys(task(generator) for _ in range(20 * count)))[:count]


def _load(path: Path, start: int, size: int) -> Dataset:
    rows = mi.load_rows(path)
    return rows.select(range(start, min(start + size, len(rows))))


def _file(data: Path, name: str, count: int, **fields: Any) -> list[Pair]:
    rows = _rows(data, name, **fields)
    return pairs_of(rows.select(range(min(count, len(rows)))))


def _rows(data: Path, name: str, **fields: Any) -> Dataset:
    path = next(found for found in sorted((data / "data").glob(f"{name}.jsonl*")))
    return mi.load_rows(path, fields=fields)


def _continued(text: str) -> Pair:
    """A text's opening to be continued, and how it goes on."""
    words = text.split()[:80]
    return "Continue this text.\n" + " ".join(words[: len(words) // 2]), " ".join(words[len(words) // 2 :])
