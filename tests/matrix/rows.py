"""The row of every registered method."""

from tests.matrix import table

ROWS = table.rows()
