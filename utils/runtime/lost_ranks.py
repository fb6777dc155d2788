"""Ranks that are lost: every rank looks after the processes of the others, and ends when one of them cannot go on.

A rank is lost if its process is gone (killed, crashed) or stopped (state T). Both are read from the system's table of
processes, so a rank that is only busy, however long and in whatever call, is never taken for a lost one. The processes
of other machines cannot be seen: there a small process of its own, which does not depend on what the rank is doing,
looks at the ranks of its machine and writes what it sees to the ranks' common store.

Run as a script, this module is that process.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path

from torch.distributed import TCPStore

from utils.errors import DinolithError, Interrupted, LostRankError

CHECK_S = 2.0  # between two looks
LIMITS_S = {  # how long a state must last before the rank counts as lost
    "gone": 4.0,  # a rank that ends in good order leaves a note before
    "stopped": 15.0,  # a job that was suspended as a whole goes on rank by rank
    "silent": 40.0,  # its machine has written nothing
    "unheard": 300.0,  # its machine has not begun to write: it still starts
    "absent": 600.0,  # it has not joined yet: it imports libraries, perhaps over a slow network
}
STORE_TIMEOUT_S = 5.0
ADVICE = "the others cannot go on without it; run the same command again: it continues from what is saved"


@dataclass(frozen=True)
class Process:
    """Where a rank runs.

    Parameters
    ----------
    host : str
        Name of the machine, for people.
    machine : str
        What tells machines (and containers that do not see each other's processes) apart.
    pid : int
        Number of the process.
    born : str
        When it began, in the system's ticks: numbers are used again.

    Examples
    --------
    >>> Process("node-7", "3f-4026", 812, "99").pid
    812
    """

    host: str
    machine: str
    pid: int
    born: str


def this_process() -> Process:
    """Describe the process that asks.

    Examples
    --------
    >>> mine = this_process()
    >>> mine.pid == os.getpid(), state_of(mine)
    (True, 'alive')
    """
    host, pid = socket.gethostname(), os.getpid()
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return Process(host, f"{boot} {os.readlink('/proc/self/ns/pid')}", pid, _status_fields(pid)[19])
    except OSError:  # no Linux: nobody sees this process but itself
        return Process(host, f"{host} {pid}", pid, "")


def _status_fields(pid: int) -> list[str]:
    """Fields of `/proc/PID/stat` behind the name of the program, which may hold spaces: the state is the first.

    Raises
    ------
    OSError
        If there is no such process.

    Examples
    --------
    >>> len(_status_fields(os.getpid())) > 19
    True
    """
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def state_of(process: Process) -> str:
    """Say whether a process of this machine is `alive`, `stopped` or `gone`.

    Examples
    --------
    >>> child = subprocess.Popen(["sleep", "60"])
    >>> process = Process("", "", child.pid, _status_fields(child.pid)[19])
    >>> child.send_signal(19)  # SIGSTOP
    >>> while state_of(process) == "alive":
    ...     time.sleep(0.01)
    >>> state_of(process)
    'stopped'
    >>> child.kill()
    >>> while state_of(process) != "gone":
    ...     time.sleep(0.01)
    >>> state_of(process), child.wait()
    ('gone', -9)
    """
    try:
        fields = _status_fields(process.pid)
    except OSError:
        return "gone"
    if fields[0] in "ZX" or fields[19] != process.born:
        return "gone"
    return "stopped" if fields[0] == "T" else "alive"


def describe(rank: int, process: Process | None, state: str, seconds: float) -> str:
    """Say in one line which rank is lost, and what to do.

    Examples
    --------
    >>> describe(1, Process("node-7", "", 812, ""), "stopped", 16.0)  # doctest: +ELLIPSIS
    'rank 1 (process 812 on node-7) is lost: it was stopped (SIGSTOP) 16 s ago or more; the others cannot go on ...'
    >>> describe(2, None, "absent", 600.0)[:53]
    'rank 2 is lost: it has not joined the others in 600 s'
    """
    what = {
        "gone": "its process was killed or has crashed (out of memory? see the system's log)",
        "stopped": f"it was stopped (SIGSTOP) {seconds:.0f} s ago or more",
        "silent": f"nothing was heard from its machine for {seconds:.0f} s",
        "unheard": f"nothing was ever heard from its machine, for {seconds:.0f} s",
        "absent": f"it has not joined the others in {seconds:.0f} s",
        "left": "it has ended before the others; its own message says why",
    }[state]
    place = f" (process {process.pid} on {process.host})" if process else ""
    return f"rank {rank}{place} is lost: {what}; {ADVICE}"


class RankWatch:
    """Looks after the other ranks in a thread; ends this process when one of them is lost.

    Parameters
    ----------
    rank, world_size : int
        This rank, and how many there are.
    address, port : str, int
        Where the ranks' common store is.
    name : str
        Keeps the entries of several starts apart.

    Attributes
    ----------
    report : callable
        Told in one line about the rank that is lost, on the lowest rank that is left, before this process ends.

    Examples
    --------
    >>> server = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    >>> watch = RankWatch(0, 2, "127.0.0.1", server.port, "doctest")
    >>> watch.processes[1] = Process("node-7", watch.processes[0].machine, 2**22 + 1, "0")  # no such process
    >>> watch.look(), watch.states
    (None, {1: 'gone'})
    """

    def __init__(self, rank: int, world_size: int, address: str, port: int, name: str):
        self.rank, self.world_size, self.address, self.port, self.name = rank, world_size, address, port, name
        self.processes: dict[int, Process] = {rank: this_process()}
        self.states: dict[int, str] = {}
        self.seconds: dict[int, float] = {}  # that each state has lasted, as far as this process was awake to see it
        self.beats: dict[int, str] = {}
        self.quiet: dict[int, float] = {}  # seconds since the last news of a rank of another machine
        self.report: Callable[[LostRankError], object] = lambda error: print(f"[ERROR] {error}", file=sys.stderr)
        self.store: TCPStore | None = None
        self.teller: subprocess.Popen | None = None
        self.reading = threading.Lock()
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._run, name="lost ranks", daemon=True)
        self.looked_at = time.monotonic()

    def start(self) -> None:
        """Make this rank known, and begin to look.

        Examples
        --------
        >>> server = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        >>> watch = RankWatch(0, 1, "127.0.0.1", server.port, "doctest")
        >>> watch.start()
        >>> watch.stop()
        >>> watch.thread.is_alive()
        False
        """
        self._read_store()  # at once, as a thread may have to wait long for its turn while libraries are imported
        self.thread.start()

    def meet(self, patience_s: float = 60.0) -> None:
        """Wait until all ranks are known: they have joined, so that it takes a moment; then none can be lost unseen.

        Examples
        --------
        >>> server = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        >>> first, second = (RankWatch(rank, 2, "127.0.0.1", server.port, "doctest") for rank in (0, 1))
        >>> _ = first.meet(patience_s=0), second.meet(patience_s=0), first.meet(patience_s=0)
        >>> sorted(first.processes), sorted(second.processes)
        ([0, 1], [0, 1])
        """
        deadline = time.monotonic() + patience_s
        self._read_store()
        while len(self.processes) < self.world_size and time.monotonic() < deadline:
            time.sleep(0.05)
            self._read_store()

    def stop(self) -> None:
        """Leave a note that this rank ends by itself, and look no more.

        Examples
        --------
        >>> server = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        >>> watch = RankWatch(0, 2, "127.0.0.1", server.port, "doctest")
        >>> watch.stop()
        >>> server.get("doctest/left/0")
        b'1'
        """
        self.ended.set()
        if self.thread.is_alive():
            self.thread.join(STORE_TIMEOUT_S)
        with suppress(RuntimeError):  # the process that holds the store has ended already: nobody reads the note
            self._connect().set(f"{self.name}/left/{self.rank}", "1")
        if self.teller is not None:
            self.teller.kill()
            self.teller.wait()

    def _connect(self) -> TCPStore:
        """Open a connection to the store that is not the one in which the rank itself waits.

        Raises
        ------
        RuntimeError
            If the store does not answer.

        Examples
        --------
        >>> server = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        >>> RankWatch(0, 1, "127.0.0.1", server.port, "doctest")._connect().check(["rank"])
        False
        """
        if self.store is None:
            self.store = TCPStore(
                self.address,
                self.port,
                is_master=False,
                timeout=timedelta(seconds=STORE_TIMEOUT_S),
                wait_for_workers=False,
            )
        return self.store

    def _run(self) -> None:
        """Look, wait, look again, until this rank ends or another one is lost.

        Examples
        --------
        >>> watch = RankWatch(0, 1, "127.0.0.1", 1, "doctest")
        >>> watch.ended.set()
        >>> watch._run()  # has nothing to wait for
        """
        while not self.ended.wait(CHECK_S if self.processes.keys() > {self.rank} else 0.2):
            self.look()
            error = self.find([rank for rank, state in self.states.items() if self._lasts(rank, state)])
            if error is not None and not self.ended.is_set():
                self._end(error)

    def _lasts(self, rank: int, state: str) -> bool:
        """Whether a rank is in a state for longer than is harmless; one that has left by itself always is harmless.

        Examples
        --------
        >>> watch = RankWatch(0, 2, "127.0.0.1", 1, "doctest")
        >>> watch.seconds[1] = 10.0
        >>> watch._lasts(1, "gone"), watch._lasts(1, "stopped"), watch._lasts(1, "left")
        (True, False, False)
        """
        return self.seconds[rank] >= LIMITS_S.get(state, float("inf"))

    def look(self) -> None:
        """Look at every other rank once, and add up how long it is in its state.

        Examples
        --------
        >>> server = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        >>> watch = RankWatch(0, 2, "127.0.0.1", server.port, "doctest")
        >>> watch.processes[1] = watch.processes[0]
        >>> watch.look(), watch.states
        (None, {1: 'alive'})
        """
        now = time.monotonic()
        # a look that comes late (this process was stopped or held up) says nothing about the time between
        elapsed, self.looked_at = min(now - self.looked_at, 2 * CHECK_S), now
        beats, left = self._read_store()
        for rank in range(self.world_size):
            if rank == self.rank:
                continue
            state = "left" if rank in left else self._state(rank, beats, elapsed)
            same = state == self.states.get(rank)
            seconds = self.seconds.get(rank, 0.0) + elapsed if same else 0.0
            self.seconds[rank] = self.quiet[rank] if state == "silent" else seconds
            self.states[rank] = state

    def _state(self, rank: int, beats: Mapping[int, str], elapsed: float) -> str:
        """State of another rank: what the system says of its process, or what is heard from its machine.

        Examples
        --------
        >>> watch = RankWatch(0, 3, "127.0.0.1", 1, "doctest")
        >>> watch.processes[1] = Process("node-7", "another", 812, "99")
        >>> beats = [{}, {1: "5 alive"}, {1: "5 alive"}, {1: "6 stopped"}, {1: "6 stopped"}, {1: "6 stopped"}]
        >>> [watch._state(1, beat, 25.0) for beat in beats]
        ['unheard', 'alive', 'alive', 'stopped', 'stopped', 'silent']
        >>> watch._state(2, {}, 25.0)
        'absent'
        """
        process = self.processes.get(rank)
        if process is None:
            return "absent"
        if self._is_near(rank):
            return state_of(process)
        beat = beats.get(rank, self.beats.get(rank))
        if beat is None:
            return "unheard"
        self.quiet[rank] = self.quiet.get(rank, 0.0) + elapsed if beat == self.beats.get(rank) else 0.0
        self.beats[rank] = beat
        return "silent" if self.quiet[rank] >= LIMITS_S["silent"] else beat.split()[1]

    def _read_store(self) -> tuple[dict[int, str], set[int]]:
        """Make this rank known, learn where the others run, and read what is heard of other machines.

        Returns
        -------
        beats : dict of int to str
            By rank; of other machines only.
        left : set of int
            Ranks that have ended by themselves.

        Examples
        --------
        >>> server = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        >>> first, second = (RankWatch(rank, 2, "127.0.0.1", server.port, "doctest") for rank in (0, 1))
        >>> _ = first._read_store(), second._read_store(), second.stop()
        >>> first._read_store(), first.processes[1] == second.processes[1]
        (({}, {1}), True)
        """
        with self.reading:
            return self._read()

    def _read(self) -> tuple[dict[int, str], set[int]]:
        """What `_read_store` does, one thread at a time.

        Examples
        --------
        >>> server = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        >>> RankWatch(0, 2, "127.0.0.1", server.port, "doctest")._read()
        ({}, set())
        """
        others = [rank for rank in range(self.world_size) if rank != self.rank]
        try:
            known = self.store is not None
            store = self._connect()
            if not known:
                store.set(f"{self.name}/process/{self.rank}", json.dumps(asdict(self.processes[self.rank])))
            for rank in others:
                if rank not in self.processes and store.check([f"{self.name}/process/{rank}"]):
                    self.processes[rank] = Process(**json.loads(store.get(f"{self.name}/process/{rank}")))
            self._start_teller()
            left = {rank for rank in others if store.check([f"{self.name}/left/{rank}"])}
            far = [rank for rank in others if rank in self.processes and not self._is_near(rank)]
            told = [rank for rank in far if store.check([f"{self.name}/beat/{rank}"])]
            return {rank: store.get(f"{self.name}/beat/{rank}").decode() for rank in told}, left
        except RuntimeError:  # the store does not answer: ranks of other machines are silent, those here are seen
            self.store = None
            return {}, {rank for rank in others if self.states.get(rank) == "left"}

    def _is_near(self, rank: int) -> bool:
        """Whether the process of a rank can be seen from here.

        Examples
        --------
        >>> RankWatch(0, 2, "127.0.0.1", 1, "doctest")._is_near(0)
        True
        """
        return self.processes[rank].machine == self.processes[self.rank].machine

    def _start_teller(self) -> None:
        """Start the process that tells other machines of the ranks here, once all are known: on the lowest rank here.

        Examples
        --------
        >>> watch = RankWatch(0, 2, "127.0.0.1", 1, "doctest")
        >>> watch.processes[1] = watch.processes[0]  # all on one machine: nobody needs to be told
        >>> watch._start_teller(), watch.teller
        (None, None)
        """
        if self.teller is not None or len(self.processes) < self.world_size:
            return
        near = [rank for rank in sorted(self.processes) if self._is_near(rank)]
        if len(near) == self.world_size or near[0] != self.rank:
            return
        ranks = json.dumps({rank: asdict(self.processes[rank]) for rank in near})
        self.teller = subprocess.Popen(
            [sys.executable, "-m", "utils.runtime.lost_ranks", self.address, str(self.port), self.name, ranks],
            cwd=Path(__file__).resolve().parents[2],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def find(self, lost: Sequence[int]) -> LostRankError | None:
        """Give the error for the first of the lost ranks; without text where a lower rank speaks. None for no rank.

        Examples
        --------
        >>> watch = RankWatch(1, 3, "127.0.0.1", 1, "doctest")
        >>> watch.states, watch.seconds = {0: "alive", 2: "gone"}, {0: 9.0, 2: 9.0}
        >>> watch.find([]), str(watch.find([2]))
        (None, '')
        >>> watch.states[0] = "stopped"
        >>> str(watch.find([0, 2]))[:30]
        'rank 0 is lost: it was stopped'
        """
        if not lost:
            return None
        fit = [rank for rank in range(self.rank) if self.states.get(rank) == "alive"]
        first = min(lost, key=lambda rank: (self.states[rank] == "left", rank))  # one that has left may follow another
        text = describe(first, self.processes.get(first), self.states[first], self.seconds[first])
        return LostRankError("" if fit else text)

    def _end(self, error: LostRankError) -> None:
        r"""End this process, whatever it waits for; what it has saved is whole, as after any sudden end.

        Examples
        --------
        >>> code = "from utils.runtime.lost_ranks import *; RankWatch(0, 1, '', 1, '')._end(LostRankError('rank 1'))"
        >>> ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        >>> ended.returncode, ended.stderr
        (4, '[ERROR] rank 1\n')
        """
        if str(error):
            self.report(error)
        else:
            time.sleep(CHECK_S)  # the launcher ends all ranks when the first one has ended: let the other speak
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        if self.teller is not None:
            self.teller.kill()
        os._exit(error.exit_code)


_watch: RankWatch | None = None


def watch_ranks(joined: bool) -> None:
    """Look after the other ranks that the launcher's environment names, from now on; does nothing when there are none.

    Parameters
    ----------
    joined : bool
        Whether all ranks have joined each other.

    Examples
    --------
    >>> from unittest.mock import patch
    >>> alone = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    >>> with patch.dict(os.environ, alone):
    ...     watch_ranks(joined=True)
    >>> explain(RuntimeError("x"))
    RuntimeError('x')
    """
    global _watch
    rank, world_size, port = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "MASTER_PORT"))
    start = f"{os.environ.get('TORCHELASTIC_RUN_ID', '')}/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    if _watch is None and world_size > 1:
        _watch = RankWatch(rank, world_size, os.environ["MASTER_ADDR"], port, f"dinolith/{start}")
        _watch.start()
    if _watch is not None and joined:
        _watch.meet()


def stop_watching() -> None:
    """Look no more: this rank ends by itself.

    Examples
    --------
    >>> stop_watching()
    """
    global _watch
    if _watch is not None:
        _watch.stop()
        _watch = None


def is_any_lost() -> bool:
    """Whether this rank has found out that another one is lost.

    Examples
    --------
    >>> is_any_lost()
    False
    """
    return _watch is not None and _watch.ended.is_set()


def when_lost(report: Callable[[LostRankError], object]) -> None:
    """Choose who is told when a rank is lost; does nothing in a single process.

    Examples
    --------
    >>> when_lost(print)
    """
    if _watch is not None:
        _watch.report = report


def explain(error: BaseException, patience_s: float = 3 * CHECK_S) -> BaseException:
    """Find out whether an error comes from a rank that is lost: its connections break before anybody looks.

    Parameters
    ----------
    error : BaseException
        What ended the work of this rank.
    patience_s : float
        How long to look. The system may need a moment to take an ended process off its table.

    Returns
    -------
    BaseException
        A `LostRankError`, or the error itself where all ranks are well or the error says what went wrong.

    Examples
    --------
    >>> explain(ValueError("x"))
    ValueError('x')
    """
    by_launcher = isinstance(error, Interrupted)  # torchrun sends SIGTERM to the others when a rank is killed
    named = isinstance(error, DinolithError)  # such as a file's: its reader may have met a broken connection
    source = error.__cause__ if named and not by_launcher else error
    if _watch is None or not (by_launcher or isinstance(source, RuntimeError)):
        return error
    if isinstance(source, DinolithError) and not by_launcher:
        return error
    deadline = time.monotonic() + (0 if by_launcher else patience_s)
    while True:
        _watch.look()
        lost = [rank for rank, state in _watch.states.items() if state in ("gone", "stopped", "left")]
        if named:
            lost = [rank for rank in lost if _watch.states[rank] != "left"]
        found = _watch.find(lost)
        if found is not None:
            _watch.ended.set()  # this thread reports it
            return found
        if time.monotonic() >= deadline:
            return error
        time.sleep(0.1)


def tell(address: str, port: int, name: str, ranks: Mapping[int, Process]) -> None:
    """Write to the store how the ranks of this machine are, until all of them are gone.

    Examples
    --------
    >>> server = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    >>> tell("127.0.0.1", server.port, "doctest", {3: Process("node-7", "", 2**22 + 1, "0")})
    >>> server.get("doctest/beat/3")
    b'0 gone'
    """
    store = TCPStore(address, port, is_master=False, timeout=timedelta(seconds=60), wait_for_workers=False)
    count, states = 0, dict.fromkeys(ranks, "alive")
    while True:
        states = {rank: state_of(process) for rank, process in ranks.items()}
        for rank, state in states.items():
            store.set(f"{name}/beat/{rank}", f"{count} {state}")
        if set(states.values()) == {"gone"}:
            return
        count += 1
        time.sleep(CHECK_S)


if __name__ == "__main__":
    tell(sys.argv[1], int(sys.argv[2]), sys.argv[3], {int(k): Process(**v) for k, v in json.loads(sys.argv[4]).items()})
