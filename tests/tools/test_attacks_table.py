"""The page of attacks names every attack as it is registered."""

from mithridate.attacks import attacks
from tools import attacks_table


def test_the_table_is_not_stale():
    text = attacks_table.PAGE.read_text(encoding="utf-8")
    assert attacks_table.filled(text) == text, "run `make docs`"


def test_every_attack_has_a_line():
    lines = attacks_table.table().splitlines()[2:]
    assert [line.split(" | ")[0].removeprefix("| ").replace("\\", "") for line in lines] == list(attacks())
    (noice,) = [line for line in lines if line.startswith("| noice ")]
    assert "| harmless-looking |" in noice
    assert "| benign |" in noice
    assert "learning rate 2e-05" in noice
    (again,) = [line for line in lines if line.startswith("| tuned\\_again ")]
    assert "steps 16 to 512" in again
