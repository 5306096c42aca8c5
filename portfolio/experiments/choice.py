r"""Keep what a run of the choice and the final test found, without its series and folds.

    pairfolio backtest --pair BTC --interval 1h --adjust-splits --config experiments/choice.json --final \
        --out run-BTC
    python experiments/choice.py run-BTC      writes experiments/choice-BTC.json

The settings are the defaults with two seeds, the default grid, and 2023 set aside; no result chose them.
"""

import json
import sys
from pathlib import Path
from typing import Any

KEPT = ("pair", "versions", "settings", "tested", "choice", "strategies", "seeds", "placebo", "final")


def kept(results: dict[str, Any]) -> dict[str, Any]:
    """The part that the tables and their tests need, and the hashes of the data."""
    files = {file["name"]: file["sha256"] for file in results["data"]["files"]}
    return {"interval": results["data"]["interval"], "files": files} | {key: results[key] for key in KEPT}


if __name__ == "__main__":
    for folder in map(Path, sys.argv[1:]):
        found = kept(json.loads((folder / "results.json").read_text(encoding="utf-8")))
        path = Path(__file__).parent / f"choice-{found['pair'][0].split('UP')[0]}.json"
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
