"""PTST trains as plain SFT does; its effect is in the chat template."""

from tests.matrix.row import Row
from tests.matrix.table.sft import sft

ROWS = {
    "ptst": Row(sft, lambda rng: {"prompt": rng.choice(["", "be careful"]), "place": "system"}, as_sft=True),
}
