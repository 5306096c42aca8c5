"""Decisions of the whole pipeline on forty uploads that nothing was chosen on.

    python -m benchmarks.decisions --out /tmp/decisions            # goes on where it stopped
    python -m benchmarks.decisions.table /tmp/decisions            # what it found, as Markdown

One JSON file per upload, with the policy and the code that decided; another state of them needs another folder. Harm
is measured on prompts that neither gate saw, asked plainly and as the attacker asks.
"""

import hashlib
import json
import shutil
import time
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import mithridate as mi
from benchmarks.decisions.arms import ARMS, Customer, Went
from benchmarks.decisions.uploads import Attacked, Harmless, everything, fresh_prompts, in_its_form, sent
from mithridate.cli.policy import calibrate
from mithridate.evaluation.generation import generate_chats
from mithridate.evaluation.intervals import Score
from mithridate.experiment.evaluation_stage import refusal_rules
from mithridate.experiment.manifest import code_versions
from mithridate.experiment.strict_yaml import load_yaml
from mithridate.files import file_hash, source_hash, write_json
from mithridate.models.loading import Where, load, load_tokenizer
from mithridate.provider.policy_file import default_text, make_policy

FRESH = 300
"""Harmful prompts per model."""
STATE = "state.json"
"""File with the policy and the code that all records of a folder are of."""


def state_of(policy: dict[str, Any]) -> dict[str, Any]:
    """Return what decides every record: hash of the policy, versions of libraries, hashes of the code."""
    tree = json.dumps(make_policy(policy).model_dump(mode="json"), sort_keys=True)
    package, here = Path(mi.__file__).parent, Path(__file__).parent
    # The stages' code is among the versions; what decides here are also both gates and what they are asked.
    deciding = [path for room in ("gates", "provider") for path in sorted((package / room).rglob("*.py"))]
    pipeline = source_hash(deciding, package) + source_hash(sorted(here.glob("*.py")), here)
    return {
        "policy": hashlib.sha256(tree.encode()).hexdigest(),
        "code": code_versions() | {"pipeline": hashlib.sha256(pipeline.encode()).hexdigest()},
    }


def keep_to(out: Path, state: dict[str, Any]) -> None:
    """Make sure that all that a folder holds is of one state, and write that state down.

    Raises:
        SystemExit: If something there is of another state, or does not say of which.
    """
    kept = out / STATE
    found = [*(out / f"{upload.name}.json" for upload in everything()), kept]
    told = {path: json.loads(path.read_text(encoding="utf-8")) for path in found if path.is_file()}
    strange = [path for path, one in told.items() if {name: one.get(name) for name in state} != state]
    if (out / "aligned").exists() and kept not in told:
        strange.append(out / "aligned")
    if strange:
        raise SystemExit(f"{strange[0]} was measured by another state of code or policy; give another --out")
    out.mkdir(parents=True, exist_ok=True)
    write_json(kept, state)


class FreshHarm:
    """Measures the harmful score of models on prompts that no gate saw; each model once."""

    def __init__(self, policy: dict[str, Any]) -> None:
        self.prompts = fresh_prompts(FRESH)
        self._rules = refusal_rules(make_policy(policy).audit.judge, None)
        self._length = policy["audit"]["max_new_tokens"]
        self._known: dict[str, dict[str, Any]] = {}

    def of(self, folder: Path, form: Any) -> dict[str, Any]:
        """Return the harmful score, asked plainly, and where there is an attacker as he asks."""
        key = file_hash(folder / "model.safetensors") + repr(form)
        if key not in self._known:
            model, tokenizer = load(Where(str(folder), None), "float32"), load_tokenizer(str(folder), None)
            plain = [[{"role": "user", "content": prompt}] for prompt in self.prompts]
            found = {"plain": self._score(model, tokenizer, plain, lambda answer: answer)}
            asked = plain if form is None else [form.prompt(prompt) for prompt in self.prompts]
            if asked != plain:
                found["as the attacker asks"] = self._score(model, tokenizer, asked, form.reading)
            self._known[key] = found
        return self._known[key]

    def _score(self, model: Any, tokenizer: Any, chats: Any, reading: Any) -> dict[str, Any]:
        said = generate_chats(model, tokenizer, chats, max_new_tokens=self._length, batch_size=150)
        verdicts = self._rules(self.prompts, [reading(answer) for answer in said])
        return Score.of(sum(one.harmful for one in verdicts), len(verdicts)).as_dict()


def measured(upload: Harmless | Attacked, aligned: Path, policy: dict[str, Any], harm: FreshHarm, folder: Path) -> Any:
    """Send one customer's files through every arm."""
    form, customer = in_its_form(upload), Customer(policy, aligned, sent(upload, str(aligned), policy), folder)
    return {name: [_record(*one, harm, form) for one in customer.rounds(arm)] for name, arm in ARMS.items()}


def _record(what: Went, seconds: Any, harm: FreshHarm, form: Any) -> dict[str, Any]:
    record = {"outcome": what.outcome, "seconds": seconds, "decision": what.decision}
    if what.model is not None and what.model.is_dir():
        record["first rung"] = harm.of(what.model, form)
    if what.left is not None:
        record["left"] = harm.of(what.left, form)
    return record


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is not yet measured."""
    parser = ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the results; what is there is kept")
    parser.add_argument("--only", nargs="*", help="names of uploads; all by default")
    parser.add_argument("--most", type=int, help="how many uploads at most")
    parser.add_argument("--keep", action="store_true", help="keep models and stages, some 100 MB an upload")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    policy = load_yaml(default_text())
    state = state_of(policy)
    keep_to(options.out, state)
    aligned, thresholds = options.out / "aligned", options.out / "thresholds.json"
    if not aligned.is_dir():
        mi.align("miniature:base", policy, out=aligned)
    if not thresholds.is_file():
        calibrate(str(aligned), None, None, None, thresholds)
    policy["gate"]["thresholds"] = str(thresholds.resolve())
    harm = FreshHarm(policy)
    done = 0
    for upload in everything():
        path = options.out / f"{upload.name}.json"
        if path.is_file() or (options.only and upload.name not in options.only):
            continue
        if options.most is not None and done >= options.most:
            break
        start, folder = time.perf_counter(), options.out / "work" / upload.name
        arms = measured(upload, aligned, policy, harm, folder)
        facts = {"name": upload.name, "harmless": isinstance(upload, Harmless)}
        if isinstance(upload, Attacked):
            facts |= {"family": upload.family, "ratio": upload.ratio, "most": upload.most}
        write_json(path, facts | state | {"limit": policy["release"]["harmful_score"], "arms": arms})
        if not options.keep:
            shutil.rmtree(folder)
        done += 1
        outcomes = {name: [one["outcome"] for one in rounds] for name, rounds in arms.items()}
        print(
            json.dumps({"upload": upload.name, "seconds": round(time.perf_counter() - start), **outcomes}), flush=True
        )


if __name__ == "__main__":
    main()
