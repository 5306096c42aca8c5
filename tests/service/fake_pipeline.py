"""Stands for the pipeline in a job's process: a few files, the same contract, no model.

What it does is read from the training file's first row: ``{"do": ...}`` words in the user's text, separated by blanks.
"""

import hashlib
import json
import os
import signal
import sys
import threading
import time
from functools import partial
from pathlib import Path


def end_with(parent):
    while os.getppid() == parent:
        time.sleep(0.1)
    os.kill(os.getpid(), signal.SIGKILL)


def _tell(progress, **line):
    print(json.dumps(line), file=progress, flush=True)


def metrics_of(step, total, validated):
    told = {"step": step, "total_steps": total, "train_loss": 0.5 / step, "train_mean_token_accuracy": 0.5}
    if validated:
        told |= {"valid_loss": 0.8, "valid_mean_token_accuracy": 0.4}
        if step == total:
            told |= {"full_valid_loss": 0.7, "full_valid_mean_token_accuracy": 0.6}
    return told


def main(folder: Path) -> int:
    threading.Thread(target=end_with, args=(os.getppid(),), daemon=True).start()
    order = json.loads((folder / "order.json").read_text())
    first = json.loads((folder / "training.jsonl").read_text().splitlines()[0])
    # Of preference pairs the conversation stands in `input`.
    words = first.get("input", first)["messages"][0]["content"].split()
    out = folder / "out"
    (out / "model").mkdir(parents=True, exist_ok=True)
    with (out / "attempts").open("a") as file:
        file.write(f"{os.getpid()}\n")

    with (folder / "progress.jsonl").open("a") as progress:
        tell = partial(_tell, progress)
        tell(kind="validated", message=f"12 rows, {order['method']}, beta {order['beta']}")
        if "die" in words:
            os.kill(os.getpid(), signal.SIGKILL)
        if "bad_progress" in words:
            print("[]", file=progress, flush=True)
        if "fail" in words:
            failure = {"code": "judge_unavailable", "message": "the judge is away", "param": None}
            (folder / "failure.json").write_text(json.dumps(failure))
            return 1
        steps = next((int(word[5:]) for word in words if word.startswith("steps")), 2)
        # State that survives a kill, as checkpoints do: each step is folded into a running hash.
        told_every = max(1, steps // 10)
        state = out / "state.json"
        done, digest = json.loads(state.read_text()) if state.is_file() else (0, str(order["seed"]))
        tell(kind="stage", message="Stage started: training", done=done, total=steps)
        while done < steps:
            time.sleep(0.02)
            done, digest = done + 1, hashlib.sha256(f"{digest}{done}".encode()).hexdigest()
            part = state.with_suffix(".part")
            part.write_text(json.dumps([done, digest]))
            part.replace(state)
            tell(kind="steps", done=done, total=steps)
            if not (done % told_every):
                tell(kind="metrics", metrics=[metrics_of(done, steps, order["validation"])])
        if "retold" in words:
            tell(kind="metrics", metrics=[metrics_of(step, steps, order["validation"]) for step in (1, steps)])
        if "second_training" in words:
            tell(kind="metrics", metrics=[{"step": 1, "total_steps": 1, "training": 2, "train_loss": 0.125}])
    outcome = next((w for w in words if w in ("refused_at_upload", "refused_at_release")), "released")
    files = {}
    if outcome == "released":
        for name, content in (("model.safetensors", digest), ("config.json", "{}")):
            (out / "model" / name).write_text(content)
            files[name] = hashlib.sha256(content.encode()).hexdigest()
    else:
        (out / "model").rmdir()
    if "swap" in words:
        (out / "model" / "model.safetensors").write_text("swapped")
    (out / "work" / "inputs").mkdir(parents=True, exist_ok=True)
    (out / "work" / "inputs" / "upload.jsonl").write_bytes((folder / "training.jsonl").read_bytes())
    (out / "decision.json").write_text(json.dumps({"outcome": outcome}))
    (out / "report.html").write_text("<p>report</p>")
    if "linked_results" in words:
        for name in ("decision.json", "report.html"):
            (out / name).rename(folder / name)
            (out / name).symlink_to(folder / name)
    if "linked_model" in words:
        (out / "model").rename(folder / "model")
        (out / "model").symlink_to(folder / "model")
    findings = [{"row": 3, "line": 3, "signals": ["obedience"], "reason": "obeys a harmful request"}]
    told = {
        "outcome": outcome,
        "reasons": ["as tuned: every check passed"] if outcome == "released" else ["obedience: 1 of 12 rows"],
        "released": "as tuned" if outcome == "released" else None,
        "policy": {"name": "tiny", "sha256": "0" * 64},
        "files": files,
        "findings": findings if outcome == "refused_at_upload" else [],
        "flagged": 1 if outcome == "refused_at_upload" else 0,
        "trained_tokens": 1234,
        "steps": [metrics_of(step, steps, order["validation"]) for step in (1, steps)],
        "metrics": {"full_valid_loss": 0.75, "full_valid_mean_token_accuracy": 0.5} if order["validation"] else {},
    }
    if "linked_progress" in words:
        for name in ("outcome.json", "progress.jsonl"):
            (folder / f"{name}.real").write_text(json.dumps(told))
            (folder / name).unlink(missing_ok=True)
            (folder / name).symlink_to(folder / f"{name}.real")
        return 0
    part = folder / "outcome.part"
    part.write_text(json.dumps(told))
    part.replace(folder / "outcome.json")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
