"""Chains in processes of their own.

On a few cores the chains of a run are faster side by side, with a core each, than one after another
with all cores: a gradient does not use two cores well. A worker builds its own copy of the
posterior, keeps its chains, and hands their rows and checkpoints to the process that writes the
file; nothing is shared and nothing is written here.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import pickle
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["ChainWorkers"]

Array = NDArray[Any]


class ChainWorkers:
    """Processes that advance the chains of a run.

    Args:
        make_chains: from no argument to the list of all chains of the run, in a process that has
            none yet; it must be picklable.
        num_chains: chains in all.
        num_processes: processes among which they are dealt.
        say: called with the chains' lines of text.

    Raises:
        ValueError: if there are more processes than chains.
        ChildProcessError: from any method, if a process has ended.
    """

    def __init__(
        self,
        make_chains: Callable[[], Sequence[Any]],
        num_chains: int,
        num_processes: int,
        say: Callable[[str], None],
    ) -> None:
        """Start the processes."""
        if not 1 <= num_processes <= num_chains:
            raise ValueError(
                "Invalid value for argument `num_processes`. Expected an integer from 1 to the "
                f"{num_chains} chains. Received: num_processes={num_processes!r}"
            )
        self._say = say
        self._num_chains = num_chains
        self._dealt = [list(range(i, num_chains, num_processes)) for i in range(num_processes)]
        context = multiprocessing.get_context("spawn")
        threads = max(1, (os.cpu_count() or 1) // num_processes)
        self._pipes: list[Any] = []
        self._processes: list[Any] = []
        self._said: list[IO[bytes]] = []
        self._files = stack = contextlib.ExitStack()
        for numbers in self._dealt:
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_work, args=(theirs, make_chains, numbers), daemon=True
            )
            said = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
            with _stderr_to(said), _threads(threads):
                process.start()
            self._said.append(said)
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def start(self, theta: Array | None) -> None:
        """Start all chains afresh, from these parameters if any."""
        self._ask("start", theta)

    def from_checkpoint(self, arrays: Mapping[str, Array]) -> None:
        """Go on from the checkpoint of all chains."""
        for pipe, numbers in zip(self._pipes, self._dealt, strict=True):
            own = {k: v for k, v in arrays.items() if int(k.split("/", 1)[0]) in numbers}
            with contextlib.suppress(OSError):
                pipe.send(("from_checkpoint", own))
        self._collect()

    def advance(self, sweep: int) -> tuple[list[dict[str, Any]], dict[str, Array], float]:
        """One sweep of every chain.

        Returns:
            Rows in the order of the chains, the checkpoint of all, and the processor time that the
            workers have spent since they were last asked [s].
        """
        rows: list[Any] = [None] * self._num_chains
        checkpoint: dict[str, Array] = {}
        seconds = 0.0
        answers = self._ask("advance", sweep)
        for numbers, (own_rows, own_checkpoint, spent) in zip(self._dealt, answers, strict=True):
            for number, row in zip(numbers, own_rows, strict=True):
                rows[number] = row
            checkpoint |= own_checkpoint
            seconds += spent
        return rows, checkpoint, seconds

    def close(self) -> None:
        """End the processes."""
        for pipe in self._pipes:
            with contextlib.suppress(OSError):
                pipe.send(("stop", None))
        for process in self._processes:
            process.join(timeout=10)
            if process.is_alive():
                process.kill()
        self._files.close()

    def __enter__(self) -> ChainWorkers:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the processes."""
        self.close()

    def _ask(self, what: str, argument: Any) -> list[Any]:
        for pipe in self._pipes:
            # of a process that is no more, the answer tells
            with contextlib.suppress(OSError):
                pipe.send((what, argument))
        return self._collect()

    def _collect(self) -> list[Any]:
        """The answer of every worker; their lines are said as they come."""
        answers: dict[int, Any] = {}
        while len(answers) < len(self._pipes):
            waiting = [p for i, p in enumerate(self._pipes) if i not in answers]
            for ready in multiprocessing.connection.wait(waiting):
                pipe: Any = ready
                number = self._pipes.index(pipe)
                try:
                    kind, content = pipe.recv()
                except (EOFError, ConnectionResetError):
                    self._processes[number].join(timeout=10)
                    code = self._processes[number].exitcode
                    raise ChildProcessError(
                        f"The process of chains {self._dealt[number]} ended, exit code {code} "
                        "(-9: killed, often for want of memory). What was committed is kept; the "
                        f"same command goes on. It said last:\n{_tail(self._said[number])}"
                    ) from None
                if kind == "say":
                    self._say(content)
                elif kind == "error":
                    error, trace = content
                    error.add_note(trace) if hasattr(error, "add_note") else None
                    raise error
                else:
                    answers[number] = content
        return [answers[i] for i in range(len(self._pipes))]


@contextlib.contextmanager
def _stderr_to(file: IO[bytes]) -> Iterator[None]:
    """Processes started here write their standard error into a file.

    TensorFlow tells there about its own build as it is imported, before anything can ask it not to.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    """Processes started here give TensorFlow so many threads.

    By their environment: once they run, what they import may have started TensorFlow already.
    """
    names = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, str(count)))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _tail(file: IO[bytes], num_lines: int = 5) -> str:
    file.seek(0)
    lines = file.read().decode(errors="replace").splitlines()
    return "\n".join(lines[-num_lines:])


def _work(pipe: Any, make_chains: Callable[[], Sequence[Any]], numbers: list[int]) -> None:
    # the process that writes decides what Ctrl-C means
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        chains = make_chains()
        own = [chains[number] for number in numbers]
        spent = 0.0
        while True:
            what, argument = pipe.recv()
            if what == "stop":
                return
            answer: Any = None
            if what == "start":
                for chain in own:
                    chain.start(argument, lambda line: pipe.send(("say", line)))
            elif what == "from_checkpoint":
                for chain in own:
                    chain.from_checkpoint(argument)
                    chain.say = lambda line: pipe.send(("say", line))
            else:
                rows = [_plain(chain.advance(argument)) for chain in own]
                checkpoint: dict[str, Array] = {}
                for chain in own:
                    checkpoint |= chain.to_checkpoint()
                now = sum(os.times()[:2])
                answer = rows, checkpoint, now - spent
                spent = now
            pipe.send(("done", answer))
    except EOFError:
        return
    except Exception as error:
        pipe.send(("error", (_portable(error), traceback.format_exc())))
        # an end with requests unread would reset the pipe before this is read
        with contextlib.suppress(EOFError, OSError):
            while pipe.recv()[0] != "stop":
                pass


def _portable(error: Exception) -> Exception:
    """The error itself, or one that says the same if it does not survive a pipe."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: np.asarray(value) for name, value in row.items()}
