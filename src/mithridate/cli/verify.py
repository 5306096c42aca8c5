"""The command ``mithridate verify``."""

from pathlib import Path

from mithridate.provider.hand_over import verify_release


def command(folder: Path) -> None:
    """Compare a released model with what was judged and print the outcome."""
    decision = verify_release(folder)
    words = decision.outcome.replace("_", " ")
    if decision.outcome == "released":
        print(f"{words}: {len(decision.files)} files are those that were judged under policy '{decision.policy.name}'")
    else:
        print(f"{words}: there is no model, as decided under policy '{decision.policy.name}'")
