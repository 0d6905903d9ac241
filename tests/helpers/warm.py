"""`python` for the jobs of workflows in tests: a fork of a process that has imported the libraries.

Most of a tiny job's time is imports. `python` gives an interpreter beside which stands a `python` that sends a script
of ours to a server, which forks for it: standard streams, folder and variables are the caller's, and a signal to the
caller goes on to the fork. Where a variable that is read on import is another than the server's, and for what is no
script of ours, it is the interpreter itself.
"""

import array
import atexit
import contextlib
import ctypes
import functools
import json
import os
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from typing import NoReturn

LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes", "accelerate", "safetensors.torch", "datasets")
LIBRARIES += (
    "jinja2",
    "jsonschema",
    "matplotlib.figure",
    "pandas",
    "pyarrow.parquet",
    "scipy.stats",
    "seaborn",
    "yaml",
)
ON_IMPORT = ("PYTHON", "LD_", "CUDA_", "BNB_", "MPL", "LANG", "LC_", "TZ")  # variables by their beginning
OF_A_HUB = ("HF_", "HUGGING", "TRANSFORMERS_")  # read on import too; what trains asks no hub
ASKING = ("fetch_dataset.py", "fetch_model.py")
COLD = ("follow_runs.py", "send_runs.py", "track.py")  # trackers' libraries run threads
PR_SET_PDEATHSIG = 1
FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
CLIENT = """#!{python} -IS
import array, json, os, signal, socket, sys

words, real, ours = sys.argv[1:], {python!r}, {ours!r}
name = os.path.basename(words[0]) if words else ""
of_ours = words and name not in {cold!r} and words[0].endswith("/workflow_scripts/" + name)
read = {on_import!r} + ({of_a_hub!r} if name in {asking!r} else ())
for variables in (ours, os.environ):
    of_ours = of_ours and all(ours.get(key) == os.environ.get(key) for key in variables if key.startswith(read))
if not of_ours:
    os.execv(real, [real, *words])
server = socket.socket(socket.AF_UNIX)
try:
    server.connect({address!r})
except OSError:
    os.execv(real, [real, *words])
wanted = {forwarded!r}
signal.pthread_sigmask(signal.SIG_BLOCK, wanted)
for number in wanted:
    signal.signal(number, lambda got, frame: server.send(bytes([got])))
request = json.dumps([words, dict(os.environ), os.getcwd()]).encode()
streams = array.array("i", [0, 1, 2])
server.sendmsg([len(request).to_bytes(8, "big")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, streams)])
server.sendall(request)
signal.pthread_sigmask(signal.SIG_UNBLOCK, wanted)
told = server.recv(16)
status = int(told or b"-9")
if status < 0:
    signal.signal(-status, signal.SIG_DFL) if -status != 9 else None
    os.kill(os.getpid(), -status)
os._exit(status)
"""


@functools.cache
def python(hub: tuple[tuple[str, str], ...] = ()) -> str:
    """An interpreter in an environment like this one, whose jobs ask a server of this process, which is started.

    `hub`: variables with which the server imports the libraries that ask hubs.
    """
    if not Path(sys.prefix, "pyvenv.cfg").exists():
        return sys.executable  # no virtual environment, of which another can be made
    place, owner = Path(tempfile.mkdtemp(prefix="warm-")), os.getpid()
    ours = {**os.environ, **dict(hub), "OMP_NUM_THREADS": "1"}
    address, binaries = place / "socket", place / "bin"
    server = subprocess.Popen(
        [sys.executable, __file__, str(address)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=ours,
        start_new_session=True,  # a signal to the tests' group is the callers' to forward
    )
    shutil.copyfile(Path(sys.prefix, "pyvenv.cfg"), place / "pyvenv.cfg")
    for name in ("lib", "lib64"):
        (place / name).symlink_to(Path(sys.prefix, "lib"))
    binaries.mkdir()
    (binaries / "python3").symlink_to(Path(sys.executable).resolve())
    client = binaries / "python"
    ways = {
        "python": sys.executable,
        "ours": {key: value for key, value in ours.items() if key.startswith((*ON_IMPORT, *OF_A_HUB))},
        "on_import": ON_IMPORT,
        "of_a_hub": OF_A_HUB,
        "asking": ASKING,
        "cold": COLD,
        "address": str(address),
        "forwarded": [int(number) for number in FORWARDED],
    }
    client.write_text(CLIENT.format(**ways), encoding="utf-8")
    client.chmod(0o755)
    assert server.stdout is not None
    assert server.stdout.readline() == b"ready\n"

    def end() -> None:
        if os.getpid() == owner:  # and no fork of it
            server.kill()
            shutil.rmtree(place, ignore_errors=True)

    atexit.register(end)
    return str(binaries / "python3")


def _serve(address: str) -> NoReturn:
    """Fork for every caller, until the standard input ends."""
    import importlib

    for library in LIBRARIES:
        importlib.import_module(library)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for a caller's fork
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen(64)
        os.write(1, b"ready\n")
        while True:
            ready, _, _ = select.select([listener, 0], [], [])
            if 0 in ready:  # the tests' process has ended
                shutil.rmtree(Path(address).parent, ignore_errors=True)
                os._exit(0)
            caller, _ = listener.accept()
            if not os.fork():
                listener.close()
                _attend(caller)
            caller.close()


def _attend(caller: socket.socket) -> NoReturn:
    """Run a caller's job in a process of its own, send it the caller's signals, and say how it ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    head, rights, _, _ = caller.recvmsg(8, socket.CMSG_SPACE(3 * array.array("i").itemsize))
    streams = array.array("i")
    for _, _, content in rights:
        streams.frombytes(content)
    request = b""
    while (missing := int.from_bytes(head, "big") - len(request)) > 0:
        part = caller.recv(min(missing, 1 << 20))
        if not part:
            os._exit(1)  # the caller was killed
        request += part
    words, environment, place = json.loads(request)
    job = os.fork()
    if not job:
        caller.close()
        _work(words, environment, place, list(streams))
    for stream in (*streams, 0, 1, 2):
        with contextlib.suppress(OSError):
            os.close(stream)
    ended = os.pidfd_open(job)
    while True:
        ready, _, _ = select.select([caller, ended], [], [])
        if ended in ready:
            _, status = os.waitpid(job, 0)
            caller.sendall(str(os.waitstatus_to_exitcode(status)).encode())
            os._exit(0)
        numbers = caller.recv(16)
        with contextlib.suppress(ProcessLookupError):
            for number in numbers or [signal.SIGKILL]:  # the caller was killed
                os.kill(job, number)
        if not numbers:
            os._exit(0)


def _work(words: list[str], environment: dict[str, str], place: str, streams: list[int]) -> NoReturn:
    """Be the job."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.setsid()
    for target, stream in enumerate(streams):
        os.dup2(stream, target)
        os.close(stream)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(place)
    sys.argv[:] = words
    sys.path[0] = str(Path(words[0]).parent)
    status = 1
    try:
        runpy.run_path(words[0], run_name="__main__")
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    _serve(sys.argv[1])
