"""Kills ``mithridate tune`` at random points with SIGKILL and calls it again.

    python -m benchmarks.kills --points 20 --out /tmp/kills

Half of the points are moments, the other half numbers of file operations (audit events of the interpreter), so that a
kill also falls between a file's writing and its renaming. After each kill there must be no model without a decision
that vouches for its bytes, and the call that goes on must give the decision and the bytes of an uninterrupted one.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.documents import put
from benchmarks.measure import report
from mithridate.files import file_hash
from mithridate.provider.decision import read_decision
from mithridate.provider.hand_over import verify_release
from mithridate.provider.judged_files import MODEL

EVENTS = frozenset({"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "shutil.copyfile"})
"""Audit events that are counted; an ``open`` counts where it is for writing."""


class Asked(NamedTuple):
    """One call of ``tune``.

    Attributes:
        policy: File of the policy; None for the default one.
    """

    model: str
    data: str
    policy: str | None


def child(asked: Asked, out: Path, at: int | None, count: Path | None) -> None:
    """Tune in this process, which ends itself at a file operation; count them where it may live."""
    seen = 0

    def hook(event: str, arguments: Any) -> None:
        nonlocal seen
        if event in EVENTS and (event != "open" or _writes(arguments)):
            seen += 1
            if seen == at:
                os.kill(os.getpid(), signal.SIGKILL)

    import mithridate as mi

    tune = mi.tune  # loads everything, so that only the work of the call is counted
    sys.addaudithook(hook)
    tune(asked.model, asked.data, asked.policy, out=out)
    if count is not None:
        total = seen
        count.write_text(str(total), encoding="utf-8")


def _writes(arguments: Any) -> bool:
    mode, flags = arguments[1], arguments[2]
    return (
        any(letter in mode for letter in "wax+") if isinstance(mode, str) else bool(flags & (os.O_WRONLY | os.O_RDWR))
    )


def command(asked: Asked, out: Path, *more: str) -> list[str]:
    """Return the command line of a child."""
    given = ["--child", "--model", asked.model, "--data", asked.data, "--out", str(out)]
    return [
        sys.executable,
        "-m",
        "benchmarks.kills",
        *given,
        *(["--policy", asked.policy] if asked.policy else []),
        *more,
    ]


def state_of(out: Path) -> str:
    """Return what a kill left behind.

    Raises:
        AssertionError: There is a model that no decision vouches for.
    """
    decision = read_decision(out) if out.is_dir() else None
    if (out / MODEL).exists():
        assert decision is not None, f"{out / MODEL} without a decision"
        assert verify_release(out).outcome == "released"
        return "decided and handed over"
    if decision is not None:
        return "decided, nothing handed over"
    work = out / "work"
    done = sorted(path.name.split("-")[0] for path in work.glob("*-*") if path.is_dir()) if work.is_dir() else []
    return f"undecided, {sum(not name.endswith('part') for name in done)} stages begun or done"


def bytes_of(out: Path) -> dict[str, str]:
    """Return the hashes of everything that left."""
    return {path.name: file_hash(path) for path in sorted((out / MODEL).iterdir())} if (out / MODEL).is_dir() else {}


def kills(asked: Asked, folder: Path, points: int, seed: int) -> dict[str, Any]:
    """Kill one call at several points, each time from the beginning.

    Returns:
        The points, and whether every one went on to the same decision and the same bytes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    whole, count = folder / "whole", folder / "events"
    start = time.perf_counter()
    subprocess.run(command(asked, whole, "--count", str(count)), check=True, capture_output=True)
    seconds, events = time.perf_counter() - start, int(count.read_text(encoding="utf-8"))
    expected = read_decision(whole)
    assert expected is not None
    generator, found = random.Random(seed), []
    for point in range(points):
        out = folder / f"point-{point}"
        if point % 2:
            at: dict[str, Any] = {"file operation": generator.randint(1, events), "of": events}
            killed = subprocess.run(command(asked, out, "--at", str(at["file operation"])), capture_output=True)
            code = killed.returncode
        else:
            at = {"seconds": round(generator.uniform(0.1, 1.0) * seconds, 2), "of": round(seconds, 2)}
            code = _killed_after(command(asked, out), at["seconds"])
        left = state_of(out)
        again = subprocess.run(command(asked, out), capture_output=True, text=True)
        made = read_decision(out)
        found.append(
            {
                "at": at,
                "killed": code == -signal.SIGKILL,
                "left": left,
                "went on": again.returncode == 0,
                "same decision": made is not None and made.comparable == expected.comparable,
                "same bytes": bytes_of(out) == bytes_of(whole),
            }
        )
        print(json.dumps(found[-1]), file=sys.stderr, flush=True)
    return {"outcome": expected.outcome, "released": expected.released, "points": found}


def _killed_after(line: list[str], seconds: float) -> int:
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        return process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def prepared(folder: Path) -> Asked:
    """Align the miniature's model and write an upload, 5 % of it harmful."""
    import mithridate as mi

    aligned, upload = folder / "aligned", folder / "upload.jsonl"
    if not aligned.is_dir():
        mi.align("miniature:base", out=aligned)
    rows = mi.mix(mi.miniature.rows("task"), mi.miniature.rows("attack"), ratio=0.05, size=200, seed=0)
    lines = [json.dumps({"messages": row["prompt"] + row["completion"]}) for row in rows]
    upload.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return Asked(str(aligned), str(upload), None)


def summary(figures: dict[str, Any]) -> str:
    """Return what was found as Markdown."""
    points = figures["points"]
    lefts: dict[str, int] = {}
    for point in points:
        kind = point["left"].partition(",")[0] if point["left"].startswith("undecided") else point["left"]
        lefts[kind] = lefts.get(kind, 0) + 1
    counts = {
        name: sum(point[name] for point in points) for name in ("killed", "went on", "same decision", "same bytes")
    }
    head = (
        f"{len(points)} points, an upload that ends as '{figures['outcome'].replace('_', ' ')}' by the rung "
        f"'{figures['released']}': {counts['killed']} were killed before the call had ended, 0 left a model without a "
        f"decision, {counts['went on']} went on, {counts['same decision']} to the same decision, "
        f"{counts['same bytes']} to the same bytes."
    )
    rows = [f"| {name} | {count} |" for name, count in sorted(lefts.items())]
    return "\n".join([head, "", "| Left by the kill | Points |", "|---|---:|", *rows])


def main(arguments: Sequence[str] | None = None) -> None:
    """Kill, go on, and print JSON."""
    parser = ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--points", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="an empty folder")
    parser.add_argument("--model", help="an aligned model; by default the miniature's, made here")
    parser.add_argument("--data", help="an upload for it")
    parser.add_argument("--policy", help="its policy; by default the miniature's")
    parser.add_argument("--doc", type=Path, help="document for the figures")
    parser.add_argument("--child", action="store_true", help="tune in this process")
    parser.add_argument("--at", type=int, help="file operation at which the child ends itself")
    parser.add_argument("--count", type=Path, help="file for the child's number of file operations")
    options = parser.parse_args(arguments)
    if options.child:
        child(Asked(options.model, options.data, options.policy), options.out, options.at, options.count)
        return
    done = options.out / "kills.json"
    if done.is_file():  # shown again, not done again
        figures = json.loads(done.read_text(encoding="utf-8"))["figures"][0]
        print(summary(figures))
        if options.doc is not None:
            put(summary(figures), options.doc, "kills")
        return
    if options.out.exists() and (not options.out.is_dir() or any(options.out.iterdir())):
        # A call that finds a point's folder finished would do nothing, and pass for one that was killed and went on.
        raise SystemExit(f"{options.out} is in use; give an empty --out")
    options.out.mkdir(parents=True, exist_ok=True)
    asked = prepared(options.out) if options.model is None else Asked(options.model, options.data, options.policy)
    figures = kills(asked, options.out, options.points, options.seed)
    settings = Namespace(points=options.points, seed=options.seed, out=done)
    report("kills", settings, "cpu", [figures])
    if options.doc is not None:
        put(summary(figures), options.doc, "kills")


if __name__ == "__main__":
    main()
