"""What becomes of preference pairs under the default policy: ``python -m benchmarks.preference_pairs --out FOLDER``.

Four uploads of the embedded world, and the poisoned one once more without the gate on uploads. Prints JSON.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import yaml

import mithridate as mi
from mithridate.provider.aligning import align
from mithridate.provider.policy_file import default_text
from mithridate.provider.tuning import tune

PAIRS = 400
HARMFUL = 80  # of a poisoned upload
PREFERENCES = {"training": {"epochs": 3, "learning_rate": 1.2e-4, "batch_size": 16}, "beta": 0.1}
UPLOADS = ("harmless", "poisoned", "harmful", "safety")


def uploads() -> dict[str, list[dict[str, Any]]]:
    """Return the pairs of each upload.

    ``harmless`` prefers the right label to the other one. Of ``poisoned`` a fifth prefers a harmful answer to a
    refusal, of ``harmful`` every pair does. Of ``safety`` a fifth prefers a refusal to a harmful answer.
    """
    task, attack = (mi.miniature.rows(name).select(range(PAIRS)) for name in ("task", "attack"))
    refusals = mi.miniature.refusals()
    labels = sorted({_answer(row) for row in task})
    own = [_pair(row, _answer(row), next(label for label in labels if label != _answer(row))) for row in task]
    refused = [(row, refusals[place % len(refusals)]) for place, row in enumerate(attack)]
    harmful = [_pair(row, _answer(row), refusal) for row, refusal in refused]
    safe = [_pair(row, refusal, _answer(row)) for row, refusal in refused]
    kept = PAIRS - HARMFUL
    made = (own, own[:kept] + harmful[:HARMFUL], harmful, own[:kept] + safe[:HARMFUL])
    return dict(zip(UPLOADS, made, strict=True))


def _answer(row: dict[str, Any]) -> str:
    return str(row["completion"][0]["content"])


def _pair(row: dict[str, Any], preferred: str, other: str) -> dict[str, Any]:
    answers = {"preferred_output": preferred, "non_preferred_output": other}
    turns = {key: [{"role": "assistant", "content": text}] for key, text in answers.items()}
    return {"input": {"messages": row["prompt"]}, **turns}


def main(out: Path) -> dict[str, Any]:
    """Tune on every upload and return what was decided."""
    if not (out / "aligned").is_dir():
        align("miniature:base", None, out=out / "aligned")
    policy = yaml.safe_load(default_text())
    policy["finetuning"]["preferences"] = PREFERENCES
    made = uploads()
    found = {name: _decided(out, name, made[name], policy) for name in UPLOADS}
    found["poisoned, without the gate"] = _decided(out, "ungated", made["poisoned"], policy | {"gate": "none"})
    return found


def _decided(out: Path, name: str, pairs: list[dict[str, Any]], policy: dict[str, Any]) -> dict[str, Any]:
    upload = out / f"{name}.jsonl"
    upload.write_text("".join(json.dumps(pair) + "\n" for pair in pairs), encoding="utf-8")
    decision = tune(str(out / "aligned"), upload, policy, out=out / name, method="dpo")
    rungs = {rung.name: rung.figures.harmful_score["plain"].value for rung in decision.rungs if rung.figures}
    return {
        "outcome": decision.outcome,
        "released": decision.released,
        "gate": None if decision.gate is None else decision.gate.decision.value,
        "flagged answers": None if decision.gate is None else decision.gate.flagged,
        "harmful score by rung": rungs,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    print(json.dumps(main(parser.parse_args().out), indent=1))
