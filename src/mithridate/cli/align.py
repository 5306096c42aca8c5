"""The command ``mithridate align``."""

from pathlib import Path

from rich.console import Console

from mithridate.cli.progress import RunDisplay
from mithridate.provider.aligning import align


def command(model: str, policy: Path | None, out: Path, launch: int) -> None:
    """Align a model by a policy and print where it lies."""
    console = Console()
    with RunDisplay(console) as display:
        align(model, policy, out=out, launch=launch, monitor=display)
    console.print(f"aligned model: {out}", soft_wrap=True)
