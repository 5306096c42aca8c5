"""Optuna's studies, one for each row: what was tried, and what is tried next."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mithridate.errors import CheckpointError, UsageError
from mithridate.worst_case.search_space import Space, TrialSetting
from mithridate.worst_case.trial_score import TrialScore

if TYPE_CHECKING:
    from optuna.storages import BaseStorage
    from optuna.study import Study
    from optuna.trial import FrozenTrial, Trial

DATABASE = "redteam.sqlite3"
STARTUP = 10
"""Trials at random before the search goes by what it has seen; Optuna's own number."""

_NUMBER, _IDENTITY, _REASON = "number", "identity", "cannot_act"


def require_optuna() -> None:
    """Check that Optuna can be imported.

    Raises:
        UsageError: If it is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise UsageError(
            "a red-team search needs Optuna, which is not installed; install the extra redteam, or: pip install optuna"
        ) from error
    # Its lines about every trial would stand between ours.
    optuna.logging.set_verbosity(optuna.logging.WARNING)


class AskedTrial:
    """A trial that waits for its score.

    Attributes:
        number: Its place among the trials of its study, from 1.
        setting: What it draws.
    """

    def __init__(self, trial: Trial, number: int, setting: TrialSetting) -> None:
        self._trial, self.number, self.setting = trial, number, setting


class RowStudy:
    """The trials of one row.

    Every trial has a sampler of its own, whose seed comes from the search's seed and the trial's number. What a trial
    draws therefore depends on the trials before it alone, not on where a search was interrupted; and since the rows
    share these seeds, their first trials are the same.

    Args:
        storage: Optuna's storage.
        row: The row's name.
        identity: What decides the study, by part.
        space: What a trial draws from.
        seed: Seed of the search.

    Raises:
        UsageError: If the storage has a study of this row with another identity.
    """

    def __init__(self, storage: BaseStorage, row: str, identity: dict[str, str], space: Space, seed: int) -> None:
        import optuna

        self._space, self._seed = space, seed
        self._study: Study = optuna.create_study(
            storage=storage, study_name=row, direction="maximize", load_if_exists=True
        )
        known = self._study.user_attrs.get(_IDENTITY, {})
        # Without a trial there is nothing to protect: asking for the cost alone must bind nobody to a recipe.
        if not self._study.get_trials(deepcopy=False):
            self._study.set_user_attr(_IDENTITY, identity)
        elif known != identity:
            parts = sorted(part for part in identity if known.get(part) != identity[part])
            raise UsageError(
                f"the store holds a search of '{row}' with another {' and '.join(parts) or 'identity'}; its trials say "
                "nothing about this one, so give another --out"
            )
        self._drop_abandoned()

    @property
    def finished(self) -> list[FrozenTrial]:
        """The trials that have a score, or a reason for having none, in the order of their numbers."""
        states = self._finished_states()
        return sorted(self._study.get_trials(deepcopy=False, states=states), key=number_of)

    def asked(self, count: int) -> list[AskedTrial]:
        """Return the next trials, at most as many as can be drawn before one of them has a score."""
        import optuna

        done = len(self.finished)
        # At random, so that none depends on another; from then on each depends on all before it.
        together = min(count, STARTUP - done) if done < STARTUP else min(count, 1)
        found = []
        for number in range(done + 1, done + together + 1):
            seed = _seed_of(self._seed, number)
            with _quiet():
                self._study.sampler = (
                    optuna.samplers.RandomSampler(seed=seed)
                    if number <= STARTUP
                    else optuna.samplers.TPESampler(seed=seed, n_startup_trials=1, constant_liar=False)
                )
                trial = self._study.ask()
                found.append(AskedTrial(trial, number, self._space.drawn(trial)))
            trial.set_user_attr(_NUMBER, number)
        return found

    def tell(self, asked: AskedTrial, score: TrialScore | str, limits: dict[str, float]) -> None:
        """Record a trial's score, or the reason why it has none.

        Args:
            asked: The trial.
            score: What was measured, or why nothing was.
            limits: By how much the trial violates each limit; it is feasible where none is above 0.
        """
        import optuna

        trial = asked._trial
        with _quiet():
            if isinstance(score, str):
                trial.set_user_attr(_REASON, score)
                # Pruned and not failed: the search is to see that nothing is found here.
                trial.set_constraint("measured", 1.0)
                self._study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                return
            for name, by in limits.items():
                trial.set_constraint(name, by)
            trial.set_user_attr("finetune_accuracy", score.accuracy)
            self._study.tell(trial, score.harmful_score)

    def drawn(self, trial: FrozenTrial) -> TrialSetting:
        """Return what a finished trial drew."""
        import optuna

        fixed = optuna.trial.FixedTrial(trial.params)
        return self._space.drawn(fixed)  # type: ignore[arg-type]  # it has the same methods, without a study

    def _drop_abandoned(self) -> None:
        """Give up the trials that an interrupted call was at; the next ones take their numbers and draw the same."""
        import optuna

        for trial in self._study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
            self._study.tell(trial.number, state=optuna.trial.TrialState.FAIL)

    @staticmethod
    def _finished_states() -> tuple[Any, ...]:
        import optuna

        return optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED


def number_of(trial: FrozenTrial) -> int:
    """Return a trial's place among those of its study, from 1; Optuna's own number also counts abandoned ones."""
    return int(trial.user_attrs[_NUMBER])


def reason_of(trial: FrozenTrial) -> str | None:
    """Return why a trial has no score; None where it has one."""
    reason = trial.user_attrs.get(_REASON)
    return None if reason is None else str(reason)


@contextmanager
def opened(folder: Path) -> Iterator[BaseStorage]:
    """Open the studies of a store.

    Raises:
        CheckpointError: If the file is no database, or of another release of Optuna.
    """
    import optuna
    from sqlalchemy.exc import DatabaseError

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / DATABASE
    # SQLite rather than Optuna's journal: a kill in the middle of a line leaves the journal unreadable.
    try:
        with _quiet():
            storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
    except (DatabaseError, RuntimeError) as error:
        said = str(error).splitlines()[0][:120]
        raise CheckpointError(f"{path} cannot be read ({said}); delete it to search anew") from error
    try:
        yield storage
    finally:
        storage.remove_session()
        storage.engine.dispose()


@contextmanager
def _quiet() -> Iterator[None]:
    import optuna

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield


def _seed_of(seed: int, number: int) -> int:
    # 32 bits are numpy's bound.
    return int.from_bytes(hashlib.sha256(f"{seed} {number}".encode()).digest()[:4], "big")
