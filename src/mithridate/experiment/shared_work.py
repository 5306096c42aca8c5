"""Does one piece of work in several processes at once, as a launcher would start them, on this machine."""

import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple

import psutil
import torch
from torch import distributed

from mithridate.errors import MithridateError
from mithridate.experiment.process_context import Surroundings, process_context
from mithridate.experiment.workers import end_with_parent, quiet_libraries

PATIENCE = 5.0
"""Seconds that the other processes have to end by themselves after one has failed, and to say why."""
LONGEST_WAIT = timedelta(days=1)
"""How long a process waits for the others; one that has died is noticed at once by the process that started it."""


class _Message(NamedTuple):
    """What a process says: figures of progress, its result, or why it failed, with the time of it."""

    kind: str
    content: Any
    time: float


class _TeamPlace(NamedTuple):
    """Where a process finds itself.

    Attributes:
        rank: Its number.
        meeting: File by which the processes meet.
        surroundings: Of the process that starts it.
    """

    rank: int
    meeting: str
    surroundings: Surroundings


class _Member:
    """One of the processes, and the pipe on which it talks.

    A pipe of its own: one that is killed in the middle of a message leaves the others readable.
    """

    def __init__(self, work: "SharedWork", rank: int, meeting: str) -> None:
        context = process_context()
        self.rank = rank
        self.failure: _Message | None = None
        self.result: Any = None
        self._reader, writer = context.Pipe(duplex=False)
        place = _TeamPlace(rank, meeting, Surroundings.here())
        self.process = context.Process(target=_take_part, args=(work, place, writer), daemon=True)
        self.process.start()
        writer.close()  # so that reading ends when the process does

    def listen(self, progress: Callable[[int, int], None]) -> None:
        """Read what the process has said so far."""
        while (message := self._said()) is not None:
            if message.kind == "progress":
                progress(*message.content)
            elif message.kind == "result":
                self.result = message.content
            else:
                self.failure = message

    def _said(self) -> _Message | None:
        """Return the next message; None where there is none yet, or no more."""
        try:
            return self._reader.recv() if self._reader.poll() else None
        except (EOFError, OSError):  # it has ended, perhaps in the middle of a message
            return None

    def end(self, until: float) -> None:
        """Have the process ended, by force after a time of `time.monotonic`."""
        self.process.join(max(0.0, until - time.monotonic()))
        self.process.kill()
        self.process.join()
        self._reader.close()


class SharedWork(NamedTuple):
    """What the processes do together.

    Attributes:
        function: Called in each process with the arguments and a function that reports progress. The first process's
            result counts.
        arguments: Its arguments.
        processes: How many processes there are.
        threads: CPU threads of each.
    """

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    processes: int
    threads: int


def shared(work: SharedWork, progress: Callable[[int, int], None]) -> Any:
    """Have several processes do one piece of work, and return what the first of them returns.

    Args:
        work: The work.
        progress: Receives the progress of the first process.

    Raises:
        MithridateError: What a process raised; or that one was killed.
    """
    # They meet by a file and not by a port, which anyone on the machine could connect to.
    with tempfile.TemporaryDirectory(prefix="mithridate-launch-") as folder:
        members: list[_Member] = []
        try:
            for rank in range(work.processes):
                members.append(_Member(work, rank, f"{folder}/meeting"))
            return _result(members, progress)
        finally:
            # After Ctrl-C as well: no process may write into the stage's folder beside the next run.
            _end(members)


def _result(members: list[_Member], progress: Callable[[int, int], None]) -> Any:
    while True:
        going = [member for member in members if member.process.is_alive()]
        for member in members:
            member.listen(progress)
        if any(member.process.exitcode for member in members):
            raise _reason(members, progress)
        if not going:
            return members[0].result
        wait([member.process.sentinel for member in going], timeout=0.2)


def _reason(members: list[_Member], progress: Callable[[int, int], None]) -> BaseException:
    """Return why the work failed: what a process said of itself comes before what followed from it in the others."""
    until = time.monotonic() + PATIENCE
    for member in members:
        member.process.join(max(0.0, until - time.monotonic()))
    for member in members:
        member.listen(progress)
    told = sorted((m.failure for m in members if m.failure is not None), key=lambda failure: failure.time)
    for failure in told:
        if isinstance(failure.content, MithridateError):
            return failure.content
    for member in members:
        code = member.process.exitcode
        if not code or member.failure is not None:
            continue
        return MithridateError(
            f"process {member.rank + 1} of {len(members)} {_end_of(code)}; run the same "
            "command again, which resumes from the last checkpoint, with the same --launch or another"
        )
    error: BaseException = told[0].content
    return error


def _end_of(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    name = signal.Signals(-code).name
    # The kernel's out-of-memory killer leaves no trace that could be read here.
    return f"was killed by {name}" + (", most likely for lack of memory" if name == "SIGKILL" else "")


def _end(members: list[_Member]) -> None:
    for member in members:
        member.process.terminate()
    until = time.monotonic() + PATIENCE
    for member in members:
        member.end(until)


def _take_part(work: SharedWork, place: _TeamPlace, writer: Connection) -> None:
    """Do one process's part."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process of the terminal; the run ends us
    threading.Thread(target=end_with_parent, args=(threading.Event(),), daemon=True).start()

    def tell(kind: str, content: Any) -> None:
        writer.send(_Message(kind, content, time.monotonic()))

    def report(done: int, total: int) -> None:
        if place.rank == 0:
            tell("progress", (done, total))

    try:
        _meet(work, place)
        result = work.function(*work.arguments, report)
        distributed.barrier()
    except MithridateError as error:
        tell("failure", error)
        raise SystemExit(1) from None  # the run prints it
    except Exception as error:
        tell("failure", error)
        raise
    if place.rank == 0:
        tell("result", result)
    distributed.destroy_process_group()  # its threads may otherwise outlive the interpreter and abort the process


def _meet(work: SharedWork, place: _TeamPlace) -> None:
    """Join the other processes, and leave what accelerate reads from a launcher."""
    rank, count = str(place.rank), str(work.processes)
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
    place.surroundings.enter(**names, OMP_NUM_THREADS=str(work.threads))
    quiet_libraries()
    loopback = _loopback()
    if loopback is not None:
        # All processes are on this machine; its own name may be an address that other machines reach, or none at all.
        for library in ("GLOO", "NCCL"):
            os.environ.setdefault(f"{library}_SOCKET_IFNAME", loopback)
    torch.set_num_threads(work.threads)
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(place.rank)
        backend = "cpu:gloo,cuda:nccl"
    distributed.init_process_group(
        backend, init_method=f"file://{place.meeting}", rank=place.rank, world_size=work.processes, timeout=LONGEST_WAIT
    )


def _loopback() -> str | None:
    """Return the name of the network interface that leads nowhere but to this machine."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(address.address == "127.0.0.1" for address in addresses):
            return name
    return None
