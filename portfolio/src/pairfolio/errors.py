"""The errors a user can meet: each says what went wrong, where, and what to do."""


class PairfolioError(Exception):
    """Base of every error raised on purpose; the command line prints it and exits with `exit_code`."""

    exit_code = 2


class DataError(PairfolioError):
    """A candle file, or two of them together, that cannot be used."""


class SettingsError(PairfolioError):
    """An option or setting that cannot be used."""


class ModelError(PairfolioError):
    """A saved model that cannot be read, trusted, or used on these bars."""
