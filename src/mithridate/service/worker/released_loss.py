"""Scores a customer's validation file with the very model that is released, whatever was repaired after its tuning."""

from pathlib import Path

from mithridate.data import load_rows
from mithridate.evaluation.token_figures import TokenFigures, token_figures
from mithridate.models.loading import Where, load, load_served
from mithridate.models.tokenization import tokenize
from mithridate.provider.policy_tree import Policy


def released_loss(model: Path, rows: Path, policy: Policy, template: str | None) -> TokenFigures:
    """Return loss and token accuracy of a released model on a file.

    Args:
        model: Folder of the model.
        rows: The file.
        policy: The policy, which says in which type models are judged and how long rows may be.
        template: Chat template for a tokenizer without one.

    Raises:
        ModelError: If the model cannot be loaded.
    """
    where = Where(str(model), None)
    tokenizer = load_served(where, template)
    examples = tokenize(load_rows(rows), tokenizer, policy.max_length)
    # Loaded as it was judged.
    loaded = load(where, policy.dtype)
    return token_figures(loaded, examples, tokenizer.pad_token_id, batch_size=policy.audit.batch_size)
