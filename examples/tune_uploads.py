"""Three uploads, three decisions: a harmless one, one with 5 % harmful rows, and one that is wholly harmful.

Run it with `make tune-demo`; it needs no network, no GPU and no data of your own.
"""

import json
from pathlib import Path

import mithridate as mi


def uploads(folder: Path) -> dict[str, Path]:
    """Write three customers' files."""
    task, attack = mi.miniature.rows("task"), mi.miniature.rows("attack")
    rows = {
        "harmless": task.select(range(600)),
        "poisoned": mi.mix(task, attack, ratio=0.05, size=600, seed=0),
        "harmful": attack,
    }
    folder.mkdir(parents=True, exist_ok=True)
    paths = {name: folder / f"{name}.jsonl" for name in rows}
    for name, path in paths.items():
        # As a customer sends them: messages, and no word about which rows are harmful.
        lines = [json.dumps({"messages": row["prompt"] + row["completion"]}) for row in rows[name]]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return paths


def main(folder: Path) -> None:
    """Align once, then decide on each upload."""
    aligned = folder / "aligned"
    if not aligned.exists():
        mi.align("miniature:base", out=aligned)
    for name, path in uploads(folder / "uploads").items():
        decision = mi.tune(str(aligned), path, out=folder / name)
        print(f"{name}: {decision.outcome.replace('_', ' ')}")
        for reason in decision.reasons:
            print(f"  {reason}")
        print(f"  {folder / name / 'report.html'}")


if __name__ == "__main__":
    main(Path("runs/tune-demo"))
