"""The errors a user can meet: each says what went wrong, where, and what to do."""


class MithridateError(Exception):
    """Base of every error raised on purpose; the command line prints it as one sentence.

    Attributes:
        exit_code: Exit status of the command line, 1 for a failure and 2 for wrong usage.
    """

    exit_code = 1


class UsageError(MithridateError):
    """An argument, option or setting that cannot be used."""

    exit_code = 2


class SettingError(UsageError, ValueError):
    """A setting of a defense or an attack that is unknown or out of range.

    Args:
        owner: The class's name.
        fault: What is wrong with which setting.
    """

    def __init__(self, owner: str, fault: str) -> None:
        super().__init__(owner, fault)
        self.fault = fault

    def __str__(self) -> str:
        return ": ".join(self.args)


class RecipeError(UsageError):
    """A recipe with an unknown key or a value out of range."""


class DataError(MithridateError):
    """A data file or set of rows that cannot be used."""


class ModelError(MithridateError):
    """A model or tokenizer that cannot be used."""


class DefenseError(MithridateError):
    """A defense that cannot act; the run stops instead of going on undefended."""


class Diverged(DefenseError):
    """A training that left NaN or Inf, where a lower learning rate may not."""


class AttackError(MithridateError):
    """An attack that cannot act; a model that was not attacked must not pass for one that withstood."""


class CheckpointError(MithridateError):
    """A checkpoint that is missing, truncated or altered."""


class JudgeError(MithridateError):
    """A judge that gave no usable verdict."""


class GateError(MithridateError):
    """A gate that cannot decide; nothing passes it."""


class ServiceError(MithridateError):
    """A service that cannot start or go on."""
