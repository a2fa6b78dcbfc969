"""Processes that can be killed: limits, restarts, threads, forks and a tidy end; the comparison itself is scripted."""

import os
import signal
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from helpers.processes import Commands, alive, children_seconds, eventually

from lit_g2rpo.errors import UserError
from lit_g2rpo.rewards.running import pool as pool_module
from lit_g2rpo.rewards.running import server
from lit_g2rpo.rewards.running.pool import Pool, TimedOut, current_pool, use_pool

# the process's own loop with a comparison that does what the answer says
SCRIPT = """
import sys, json; sys.path[:] = json.loads(sys.argv[1])
import os, time
from lit_g2rpo.rewards.running import worker
def compare(gold, answer):
    word, _, rest = answer.partition(" ")
    if word == "sleep":
        time.sleep(float(rest))
    if word == "spin":
        while True:
            pass
    if word == "big":
        9 ** 9 ** 9
    if word == "burn":
        until = time.process_time() + float(rest)
        while time.process_time() < until:
            pass
    if word == "note":
        with open(rest, "a") as file:
            file.write("compared\\n")
        time.sleep(0.3)
    if word == "take":
        bytearray(int(rest) << 20)
    if word == "die" or (word == "dieonce" and not os.path.exists(rest) and not open(rest, "w").close()):
        os._exit(1)
    if word == "raise":
        raise ValueError
    return gold == answer
worker._comparison = lambda: compare
worker.main()
"""


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Pool]]:
    monkeypatch.setattr(server, "START", SCRIPT)
    pools: list[Pool] = []

    def build(workers: int = 1, seconds: float = 30.0, memory: int = 2**30) -> Pool:
        pools.append(Pool(workers, seconds, memory))
        return pools[-1]

    yield build
    for pool in pools:
        pool.close()


def pids(pool: Pool) -> set[int]:
    return {worker.pid for worker in pool._running}


def test_it_starts_when_asked_and_then_stays(make: Callable[..., Pool]) -> None:
    pool = make(workers=2)
    assert not pids(pool)
    assert pool.verify("a", "a")
    first = pids(pool)
    assert len(first) == 1
    assert not pool.verify("a", "b")
    assert not pool.verify("a", "raise")
    assert pids(pool) == first
    assert pool.restarts == 0


def test_a_comparison_that_takes_too_long_is_killed_and_told_apart(make: Callable[..., Pool]) -> None:
    pool = make(seconds=0.5)
    assert pool.verify("a", "a")
    (first,) = pids(pool)
    with pytest.raises(TimedOut):
        pool.verify("a", "big")
    assert pool.verify("a", "a2") is False
    (first,) = pids(pool)
    pool.restarts = 0
    used = children_seconds()
    with pytest.raises(TimedOut):
        pool.verify("a", "spin")
    assert children_seconds() - used < 3
    assert not alive(first)
    assert pool.restarts == 1
    assert pool.verify("b", "b")
    with pytest.raises(TimedOut):
        pool.verify("a", "spin")
    assert pool.restarts == 1, "what timed out is not tried again"
    pool.forget()
    with pytest.raises(TimedOut):
        pool.verify("a", "spin")
    assert pool.restarts == 2


def test_the_limit_is_cpu_time_so_that_load_decides_nothing(make: Callable[..., Pool]) -> None:
    pool = make(workers=6, seconds=0.6)
    with ThreadPoolExecutor(6) as threads:
        # more work than two cores do within the limit, and waiting costs nothing
        found = list(threads.map(lambda i: pool.verify(str(i), f"burn 0.{i}"), [3, 4, 3, 4]))
        found += list(threads.map(lambda i: pool.verify(str(i), f"sleep 0.{i}"), [7, 8]))
    assert found == [False] * 6
    assert pool.restarts == 0


def test_one_that_does_not_even_compute_is_ended_by_the_clock(
    make: Callable[..., Pool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "WALL", 2)
    pool = make(seconds=0.5)
    with pytest.raises(TimedOut):
        pool.verify("a", "sleep 600")
    assert pool.restarts == 1


def test_a_successor_needs_no_imports(make: Callable[..., Pool], tmp_path: Path) -> None:
    notes = tmp_path / "imported"
    counting = f"(open({str(notes)!r}, 'a').write('imported '), compare)[1]"
    server.START = SCRIPT.replace("lambda: compare", f"lambda: {counting}")
    pool = make(workers=2, seconds=0.2)
    for i in range(5):
        with pytest.raises(TimedOut):
            pool.verify(str(i), "spin")
        assert pool.verify(str(i), str(i))
    assert pool.restarts == 5
    assert notes.read_text() == "imported "


def test_a_worker_may_be_ended_twice(make: Callable[..., Pool]) -> None:
    pool = make()
    assert pool.verify("a", "a")
    (worker,) = pool._running
    assert worker.server.reap(worker.pid) == -signal.SIGKILL
    assert worker.server.reap(worker.pid) == 0
    assert pool.verify("b", "b")


def test_a_server_killed_from_outside_is_replaced(make: Callable[..., Pool]) -> None:
    pool = make(seconds=0.5)
    assert pool.verify("a", "a")
    assert pool._server is not None
    first = pool._server.process.pid
    os.kill(first, signal.SIGKILL)
    assert pool.verify("b", "b"), "its worker goes on"
    with pytest.raises(TimedOut):
        pool.verify("a", "spin")
    assert pool.verify("c", "c")
    assert pool._server.process.pid != first


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limit of memory holds on Linux")
def test_memory_is_limited(make: Callable[..., Pool]) -> None:
    pool = make(memory=256 << 20)
    assert not pool.verify("a", "take 20")
    with pytest.raises(TimedOut):
        pool.verify("a", "take 400")
    assert pool.restarts == 1
    assert pool.verify("a", "a")


def test_a_process_killed_from_outside_is_replaced(make: Callable[..., Pool], tmp_path: Path) -> None:
    pool = make()
    assert pool.verify("a", "a")
    os.kill(pids(pool).pop(), signal.SIGKILL)
    assert pool.verify("b", "b")
    assert pool.restarts == 1
    once = f"dieonce {tmp_path / 'died'}"
    assert pool.verify(once, once)
    assert pool.restarts == 2
    with pytest.raises(TimedOut):
        pool.verify("a", "die")
    assert pool.restarts == 4
    assert pool.verify("c", "c")


def test_threads_share_processes(make: Callable[..., Pool]) -> None:
    pool = make(workers=2)
    pairs = [(f"{i % 50}", f"{i % 7}") for i in range(400)]
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda pair: pool.verify(*pair), pairs))
    assert found == [gold == answer for gold, answer in pairs]
    assert len(pids(pool)) <= 2


def test_the_same_pair_is_compared_once(make: Callable[..., Pool], tmp_path: Path) -> None:
    pool = make(workers=2)
    notes = tmp_path / "notes"
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(lambda _: pool.verify("a", f"note {notes}"), range(8))) == [False] * 8
    assert notes.read_text() == "compared\n"


def test_it_works_in_a_forked_child_and_leaves_the_parent_alone(make: Callable[..., Pool]) -> None:
    pool = make()
    assert pool.verify("a", "a")
    (worker,) = pool._running
    own = worker.pid
    child = os.fork()
    if child == 0:
        right = False
        try:
            right = (
                worker.connection.closed
                and not pids(pool)
                and pool.verify("b", "b")
                and not pool.verify("b", "c")
                and own not in pids(pool)
            )
            pool.close()
        finally:
            os._exit(0 if right else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert pids(pool) == {own}
    assert pool.verify("c", "c")
    assert pool.restarts == 0


def test_close_ends_processes_and_more_may_come(make: Callable[..., Pool]) -> None:
    pool = make(workers=2)
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda i: pool.verify("a", f"sleep 0.{i}"), [2, 3]))
    ended = pids(pool)
    pool.close()
    assert ended
    assert not any(map(alive, ended))
    assert pool.verify("a", "a")


def test_a_process_that_does_not_start_is_the_users_to_know(make: Callable[..., Pool]) -> None:
    server.START = SCRIPT.replace("lambda: compare", "lambda: __import__('no_such_package')")
    pool = make()
    with pytest.raises(UserError, match=r"No module named 'no_such_package'.*install math-verify"):
        pool.verify("a", "b")
    assert pool.broken is not None


def test_each_thread_may_have_its_own(make: Callable[..., Pool]) -> None:
    pool, seen = make(), []

    def told() -> None:
        use_pool(pool)
        seen.append(current_pool())

    thread = threading.Thread(target=told)
    thread.start()
    thread.join()
    assert seen == [pool]


PROGRAM = """
import os, signal, sys, threading, time
from lit_g2rpo.rewards.running import server
from lit_g2rpo.rewards.running.pool import Pool
server.START = sys.argv[1]
pool = Pool(2, float(sys.argv[2]))
pool.verify("a", "a")
thread = threading.Thread(target=lambda: pool.verify("a", "spin"), daemon=True)
thread.start()
time.sleep(0.3)
print(*[worker.pid for worker in pool._running], flush=True)
{end}
"""


@pytest.mark.parametrize(
    ("end", "code"),
    [("", 0), ("sys.exit(3)", 3), ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL)],
    ids=["end", "exit", "killed"],
)
def test_the_end_of_the_program_is_quiet_and_leaves_nothing(commands: Commands, end: str, code: int) -> None:
    program = textwrap.dedent(PROGRAM).replace("{end}", end)
    done = commands.run(sys.executable, "-c", program, SCRIPT, "1" if code < 0 else "60")
    assert (done.returncode, done.stderr) == (code, "")
    workers = [int(word) for word in done.stdout.split()]
    assert workers
    # one whose parent was killed ends itself a moment later
    eventually(lambda: not any(map(alive, workers)))
