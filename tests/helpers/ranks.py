"""Several processes on this machine's CPU that train together, forked of the test's own: nothing is imported anew."""

import os
import pickle
import socket
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft_tradeoffs.runs.interruption import Rank
from peft_tradeoffs.training import parallel
from peft_tradeoffs.training.parallel import World

LONG_S = 60.0  # far more than any of these tests takes


def together(count: int, work: Callable[[World], Any], timeout_s: float = LONG_S) -> list[Any]:
    """What `work` gives on each of `count` ranks, by rank; an AssertionError with the traceback of one that fails."""
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as listener:
        found = [Path(folder, str(number)) for number in range(count)]
        pids = []
        for number, path in enumerate(found):
            pid = os.fork()
            if not pid:
                _be(number, count, listener, path, work, timeout_s)
            pids.append(pid)
        listener.detach()  # the first rank's
        codes = _ended(pids)
        results = [pickle.loads(path.read_bytes()) if path.exists() else None for path in found]
    for number, (code, result) in enumerate(zip(codes, results, strict=True)):
        if code:
            raise AssertionError(f"rank {number} ended with {code}: {result}")
    return results


def _be(number: int, count: int, listener: Any, path: Path, work: Callable[[World], Any], timeout_s: float) -> None:
    status = 1
    try:
        torch.set_num_threads(1)
        rank = Rank(number, count, listener.getsockname()[1], None if number else listener.detach())
        store = parallel.connect(rank)
        world = parallel.join(rank, store, torch.device("cpu"), timeout_s)
        path.write_bytes(pickle.dumps(work(world)))
        world.agree(False)  # the first one holds the store
        status = 0
    except BaseException:
        path.write_bytes(pickle.dumps(traceback.format_exc()))
    finally:
        time.sleep(0.2 * (not number))
        os._exit(status)


def _ended(pids: list[int]) -> list[int]:
    """Exit statuses; who takes too long is killed."""
    ends, codes = time.monotonic() + LONG_S, {}
    while len(codes) < len(pids):
        for pid in set(pids) - set(codes):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                codes[pid] = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > ends or any(codes.values()):
                os.kill(pid, 9)
        time.sleep(0.01)
    return [codes[pid] for pid in pids]
