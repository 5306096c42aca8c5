"""Reading, checking and writing a folder of cards."""

import json
from collections.abc import Collection, Iterable
from pathlib import Path

from pydantic import ValidationError

from mithridate.errors import DataError
from mithridate.validation import sentence
from tools.cards.card import Card


def read_card(path: Path) -> Card:
    """One card.

    Raises:
        DataError: Naming file and key at fault.
    """
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        card = Card.model_validate(tree)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: is not JSON ({error.msg}, column {error.colno})") from error
    except ValidationError as error:
        raise DataError(f"{path}: {sentence(error, Card)}") from error
    if card.method != path.stem:
        raise DataError(f"{path}: method: '{card.method}' is not the file's name; rename the file or the method")
    return card


def read_cards(folder: Path) -> dict[str, Card]:
    """All cards of a folder by method.

    Raises:
        DataError: Naming file and key at fault, or that the folder holds no card.
    """
    paths = sorted(folder.glob("*.json"))
    if not paths:
        raise DataError(f"{folder}: holds no card; one is <method>.json")
    return {path.stem: read_card(path) for path in paths}


def check_cards(folder: Path, registered: Collection[str]) -> list[str]:
    """Every fault of a folder as one sentence: cards that cannot be used, are missing, or belong to no method."""
    paths = sorted(folder.glob("*.json"))
    names = {path.stem for path in paths}
    unknown = [f"{folder / name}.json: no method is called '{name}'" for name in sorted(names - set(registered))]
    missing = [f"{folder / name}.json: missing; every method has a card" for name in registered if name not in names]
    return [*_faults(paths), *missing, *unknown]


def _faults(paths: Iterable[Path]) -> Iterable[str]:
    for path in paths:
        try:
            read_card(path)
        except DataError as error:
            yield str(error)


def write_card(card: Card, folder: Path) -> None:
    """Write a card as `read_card` reads it."""
    text = json.dumps(card.model_dump(mode="json"), indent=2, ensure_ascii=False)
    (folder / f"{card.method}.json").write_text(text + "\n", encoding="utf-8")
