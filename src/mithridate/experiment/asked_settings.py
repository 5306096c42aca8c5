"""What an attacker asks for: training settings of his own, and harmful prompts in his own form."""

from mithridate.attacks.upload_attack import TrainingAsk, UploadAttack
from mithridate.experiment.recipe_attacks import NamedAttack
from mithridate.experiment.recipe_parts import TrainingSettings
from mithridate.experiment.recipe_rows import UploadChoice


def asked(training: TrainingSettings, asks: TrainingAsk) -> TrainingSettings:
    """Return training settings with those in place that the attacker asks for."""
    rate = training.learning_rate if asks.learning_rate is None else asks.learning_rate
    epochs = training.epochs if asks.epochs is None else asks.epochs
    return training.model_copy(update={"epochs": epochs, "learning_rate": rate * asks.factor})


def asked_as(chosen: UploadChoice | None) -> NamedAttack | None:
    """Return the attack in whose form harmful prompts are asked; None where that is the plain one."""
    made = None if chosen is None else chosen.upload()
    if chosen is None or made is None or made.ask == "plain":
        return None
    # Attacks that ask plainly share their evaluations.
    own = type(made).prompt is not UploadAttack.prompt or type(made).reading is not UploadAttack.reading
    return NamedAttack(method=chosen.method, **(chosen.model_extra or {})) if own else None
