"""The command ``mithridate redteam``."""

import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from mithridate.cli.progress import RunDisplay
from mithridate.experiment.jobs import StageNode
from mithridate.experiment.stage_pool import Placement
from mithridate.report.text import percent
from mithridate.worst_case.search import SearchMonitor, redteam, redteam_cost
from mithridate.worst_case.search_cost import SearchCost
from mithridate.worst_case.trial_score import TrialScore
from mithridate.worst_case.worst_page import cautions, sentence
from mithridate.worst_case.worst_tables import terminal_table, worst_lines
from mithridate.worst_case.writing import PAGE, RESULT


class SearchDisplay(RunDisplay, SearchMonitor):
    """Shows the stages under way, and a line for each trial."""

    def planned(self, nodes: Sequence[StageNode], jobs: int) -> None:
        """Set up the bars of the next trials, in place of those of the last ones."""
        if self._all is not None:
            self._progress.remove_task(self._all)
        super().planned(nodes, jobs)

    def costs(self, cost: SearchCost) -> None:
        """Print what is left to do."""
        for line in cost.lines:
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def tried(self, row: str, number: int, of: int, found: TrialScore | str, feasible: bool) -> None:
        """Print what a trial found, on the prompts that the search reads."""
        if isinstance(found, str):
            said = f"not measured: {found}"
        else:
            within = "" if feasible else " · beyond the limits"
            said = f"HS {percent(found.harmful_score)} · FA {percent(found.accuracy)}{within}"
        line = f"{self._time()} {row} · trial {number} of {of} · {said}"
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def command(
    recipe: Path,
    overrides: list[str],
    out: Path | None,
    trials: int,
    placement: Placement,
    as_json: bool,
    show_cost: bool,
) -> None:
    """Search every row's worst case and print the table, or print what the search would cost.

    Args:
        recipe: The recipe's file.
        overrides: ``a.b=value`` settings.
        out: Folder of the results.
        trials: Trials of each row.
        placement: Where stages run, and how many at the same time.
        as_json: Print the result as JSON on standard output and nothing else; progress goes to standard error.
        show_cost: Print what is left to do, and train nothing.
    """
    if show_cost:
        cost = redteam_cost(recipe, out, trials=trials, overrides=overrides)
        print(json.dumps(cost.model_dump(mode="json"), indent=1) if as_json else "\n".join(cost.lines))
        return
    console = Console(stderr=as_json)
    # Without the path of the program, so that the command works elsewhere.
    typed = shlex.join(["mithridate", *sys.argv[1:]])
    with SearchDisplay(console) as display:
        found = redteam(
            recipe,
            out,
            trials=trials,
            overrides=overrides,
            jobs=placement.jobs,
            engine=placement.engine,
            ray_address=placement.ray_address,
            command=typed,
            monitor=display,
        )
    if as_json:
        print(json.dumps(found.model_dump(mode="json"), indent=1))
        return
    folder = out if out is not None else Path("runs") / f"{found.name}-redteam"
    console.print(terminal_table(found))
    left_out = [f"{row.name}: not searched, {row.reason}" for row in found.left_out]
    for line in (*worst_lines(found), sentence(found), *cautions(found), *left_out):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print(f"page: {folder / PAGE}\nresult: {folder / RESULT}", soft_wrap=True)
