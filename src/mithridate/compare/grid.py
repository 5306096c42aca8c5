"""All cells of a comparison, and their distinct stages in one set."""

from pathlib import Path
from typing import NamedTuple

from mithridate.compare.results import AXES, Setting
from mithridate.compare.spec import Spec, recipes
from mithridate.pipeline.inputs import Inputs
from mithridate.pipeline.plan import Chain, Node, Plan


class Place(NamedTuple):
    """One cell before it is measured: a chain of stages at a setting."""

    setting: Setting
    chain: Chain


class Grid:
    """The cells, seed by seed and setting by setting, so that what is done of a broken-off run has all pipelines.

    Attributes:
        places: The cells.
        nodes: Their distinct stages by key, in the order of the cells.
        names: A name for people by key: the first cell that needs the stage.
        hashes: SHA-256 of every fixed input.

    Args:
        spec: The comparison.
        folder: Folder that relative paths are looked up in first.
        inputs: Where the rows are written.
    """

    def __init__(self, spec: Spec, folder: Path, inputs: Path) -> None:
        rows: dict[int, Inputs] = {}
        found: list[Place] = []
        for setting, recipe in recipes(spec).items():
            if setting.size not in rows:
                rows[setting.size] = Inputs(recipe, folder, inputs)
            found += [Place(setting, chain) for chain in Plan(recipe, rows[setting.size]).chains]
        base, seeds = found[0].setting, spec.base().seeds
        self.hashes = next(iter(rows.values())).hashes()
        self.places = sorted(found, key=lambda place: seeds.index(place.chain.seed))
        self.nodes: dict[str, Node] = {}
        self.names: dict[str, str] = {}
        for setting, chain in self.places:
            for node in chain.needed:
                self.nodes.setdefault(node.key, node)
                self.names.setdefault(node.key, _name(node, base, setting, chain))


def _name(node: Node, base: Setting, setting: Setting, chain: Chain) -> str:
    where = [
        f"{axis.replace('_', ' ')} {getattr(setting, axis):g}"
        for axis in AXES
        if getattr(setting, axis) != getattr(base, axis)
    ]
    method = node.spec.get("defense", {}).get("method")
    parts = [node.stage, method or chain.variant.name]
    if node.stage != "alignment":
        parts += [*where, f"seed {chain.seed}"]
    return " · ".join(parts)
