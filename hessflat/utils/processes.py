"""Several processes that run one program: one of them writes, and all of them decide alike.

JAX runs the same program in every process, each with devices of its own, and what sums over all devices waits for all
of them. So what may differ between processes, such as clocks, memory, signals and files, is asked of one and told to
all. With one process nothing is exchanged and nothing is started.
"""

import contextlib
import functools
import importlib.util
import os
import pickle
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import jax
import numpy as np

from hessflat.utils import compat, last_words
from hessflat.utils.errors import InputError, Lost, in_one_line

Value = TypeVar("Value")

# A process that is not heard of for so long has ended. JAX's own default, 100, leaves the others waiting for minutes.
HEARTBEAT_SECONDS = 20
# What is sent at once, in bytes: so much with the length of the whole, then pieces of at most so much.
_FIRST, _PIECE = 2**8, 2**26
# How an error says where it was raised, and that every process raises it.
_HERE, _ELSEWHERE = "raised here, and in every process", "raised in another process, which tells of it"
# How the runtime begins to say that another process cannot be reached.
_LOSS = re.compile("(UNKNOWN|UNAVAILABLE|INTERNAL|ABORTED|CANCELLED|DEADLINE_EXCEEDED|FAILED_PRECONDITION): ")
_filter: subprocess.Popen[bytes] | None = None  # `last_words`
_alone = False  # while the writer runs by itself what the others do not


def start() -> None:
    """Start `jax.distributed` where the environment says that this is one of several processes; never for one.

    They are tasks of `srun`, ranks of Open MPI, workers of a Cloud TPU, or started by hand, with
    `JAX_COORDINATOR_ADDRESS`, `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID`. It must come before any computation.

    Raises:
        InputError: the environment says too little, or the processes cannot reach one another.
    """
    arguments = found(os.environ)
    if arguments is None or jax.distributed.is_initialized():
        return
    _filter_errors()
    # Signals are agreed upon by `any_of`; JAX would take the place of their handlers.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(heartbeat_timeout_seconds=HEARTBEAT_SECONDS, **arguments)
    except Exception as error:  # JAX raises whatever its service raised
        raise InputError(
            f"the processes cannot be joined ({in_one_line(error)}); see that every one of them is started, and that "
            "process 0 can be reached from the others"
        ) from error


def _filter_errors() -> None:
    """Send what C++ writes to standard error through `last_words`; Python writes there itself, but for `say_lost`."""
    global _filter  # it ends with this process, which has nothing more to do with it
    straight = os.dup(2)
    command = [sys.executable, "-I", "-S", str(Path(last_words.__file__))]
    _filter = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=straight)
    assert _filter.stdin is not None, "asked for"
    os.dup2(_filter.stdin.fileno(), 2)
    _filter.stdin.close()
    sys.stderr = os.fdopen(straight, "w", buffering=1)


def say_lost(error: Lost) -> None:
    """Say that another process has ended, unless JAX has said so."""
    sys.stderr.flush()
    os.write(2, f"{last_words.ENDED} ({error}); {last_words.CONTINUES}\n".encode())


def found(environment: Mapping[str, str]) -> dict[str, Any] | None:
    """What `jax.distributed.initialize` is to be told beyond what it finds by itself; None where there is one process.

    Raises:
        InputError: processes that nothing tells where to meet.
    """
    address = environment.get("JAX_COORDINATOR_ADDRESS")
    launchers = ("OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS", "TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES")
    if "JAX_NUM_PROCESSES" in environment or (address and environment.keys().isdisjoint(launchers)):
        number, index = (_number(environment, name) for name in ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID"))
        arguments = {"num_processes": number, "process_id": index, "cluster_detection_method": "deactivate"}
        where = "$JAX_NUM_PROCESSES"
    elif "OMPI_COMM_WORLD_SIZE" in environment:
        number, index, local = (
            _number(environment, f"OMPI_COMM_WORLD_{name}") for name in ("SIZE", "RANK", "LOCAL_RANK")
        )
        arguments = {"num_processes": number, "process_id": index}
        if "JAX_LOCAL_DEVICE_IDS" not in environment:
            arguments["local_device_ids"] = [local]
        where = "Open MPI"
        # Until version 4 Open MPI tells its ranks where they can meet.
        address = address or environment.get("OMPI_MCA_orte_hnp_uri")
    elif "SLURM_STEP_NUM_TASKS" in environment:
        # Not SLURM_NTASKS, which a login shell inside an allocation has as well.
        number, arguments, address = _number(environment, "SLURM_STEP_NUM_TASKS"), {}, address or "SLURM's"
        where = "srun"
    else:
        number, arguments, address = _tpu_workers(environment), {}, address or "the first worker's"
        where = "Cloud TPU"
    if number <= 1:
        return None
    if address is None:
        raise InputError(
            f"{where} started {number} processes, and $JAX_COORDINATOR_ADDRESS does not say where they meet; set it to "
            "HOST:PORT of process 0, a port that is free there, in every process"
        )
    return arguments


def _number(environment: Mapping[str, str], name: str) -> int:
    value = environment.get(name, "")
    if not value.isdecimal():
        raise InputError(f"${name} must be a whole number where there are several processes, got {value!r}")
    return int(value)


def _tpu_workers(environment: Mapping[str, str]) -> int:
    """The processes of a Cloud TPU, one for each of its machines; 1 where this is none."""
    hosts = environment.get("TPU_PROCESS_ADDRESSES") or environment.get("TPU_WORKER_HOSTNAMES")
    # JAX sets this variable where it is imported on a machine without chips.
    if hosts is None and "TPU_SKIP_MDS_QUERY" not in environment and importlib.util.find_spec("libtpu"):
        import urllib.request  # on a TPU alone, for it takes a while

        address = "http://metadata.google.internal/computeMetadata/v1/instance/attributes/worker-network-endpoints"
        request = urllib.request.Request(address, headers={"Metadata-Flavor": "Google"})
        with contextlib.suppress(OSError), urllib.request.urlopen(request, timeout=5) as answer:
            hosts = answer.read().decode()
    return len((hosts or "").split(",")) * int(environment.get("MEGASCALE_NUM_SLICES") or 1)


def are_several() -> bool:
    """Whether there are other processes that run the same program."""
    # The first question starts no backend, unlike the second.
    return not _alone and jax.distributed.is_initialized() and jax.process_count() > 1


def is_writer() -> bool:
    """Whether this is the process that writes files and says what is done: the first one."""
    return not are_several() or jax.process_index() == 0


def spans(tree: Any) -> bool:
    """Whether an array of `tree` lies on devices of several processes, so that these work on it together."""
    leaves = jax.tree.leaves(tree)
    return any(
        isinstance(leaf, jax.Array) and not compat.is_traced(leaf) and not leaf.is_fully_addressable for leaf in leaves
    )


def agreed(value: Value, together: bool = True) -> Value:
    """The writer's value, in every process; this one's own where they are not `together`, as of `spans`."""
    return from_writer(lambda: value) if together else value


def any_of(flag: bool) -> bool:
    """Whether `flag` is true in any process."""
    return any(_gathered(flag)) if are_several() else flag


def from_writer(function: Callable[[], Value]) -> Value:
    """What `function` returns, or raises, in the writer, where alone it runs; the others have a copy.

    Meanwhile nothing may be computed over the devices of all processes.
    """
    global _alone
    if not are_several():
        return function()
    value, error = None, None
    if jax.process_index() == 0:
        _alone = True
        try:
            value = function()
        except Exception as own:
            error = own
        finally:
            _alone = False
    result: Value = _outcome(value, error, source=0)
    return result


def by_writer(function: Callable[..., Value]) -> Callable[..., Value]:
    """The function as `from_writer` runs it."""

    @functools.wraps(function)
    def asked(*arguments: Any, **named: Any) -> Value:
        return from_writer(lambda: function(*arguments, **named))

    return asked


def in_writer(function: Callable[[], Value]) -> Value | None:
    """What `function` returns in the writer, where alone it runs, and None in the others; what it raises, in all."""
    kept: list[Value] = []
    from_writer(lambda: kept.append(function()))
    return kept[0] if kept else None


@contextlib.contextmanager
def held_by_writer(make: Callable[[], contextlib.AbstractContextManager[Value]]) -> Iterator[Value | None]:
    """A context that the writer alone enters: its value there, and None in the others."""
    with contextlib.ExitStack() as stack:
        yield in_writer(lambda: stack.enter_context(make()))


@contextlib.contextmanager
def failing_together(together: bool = True) -> Iterator[None]:
    """A context that raises in every process what is raised in one; in this one alone where they are not `together`.

    One that fails while the others wait for it inside the context fails too early for this; see `cli.app.guarded`.
    """
    together, error = together and are_several(), None
    try:
        with loss_named():
            yield
    except Exception as own:
        if not together:
            raise
        error = own
    if together:
        failed = _gathered(error is not None)
        if any(failed):
            _outcome(None, error, source=failed.index(True))


@contextlib.contextmanager
def loss_named() -> Iterator[None]:
    """A context in which what the runtime raises when another process has ended is `Lost`."""
    try:
        yield
    except Exception as error:
        if are_several() and _LOSS.match(str(error)):
            raise Lost(in_one_line(error)) from error
        raise


def leave(status: int) -> NoReturn:
    """End this process alone, where the others know nothing of its end: JAX would wait for them at the exit."""
    sys.stdout.flush()
    sys.stderr.flush()
    if jax.process_index() == 0:
        time.sleep(3)  # with the first process JAX's service ends, and with that the others, if they have not already
    os._exit(status)


def is_told_elsewhere(error: BaseException) -> bool:
    """Whether an error was raised in another process first, which says so."""
    return _ELSEWHERE in _notes(error)


def is_common(error: BaseException) -> bool:
    """Whether every process raises this error."""
    return not {_HERE, _ELSEWHERE}.isdisjoint(_notes(error))


def _notes(error: BaseException | None) -> list[str]:
    """Of an error, and of what it stands for."""
    found: list[str] = []
    while error is not None:
        found += getattr(error, "__notes__", [])
        error = error.__cause__
    return found


def _outcome(value: Any, error: Exception | None, source: int) -> Any:
    """The value of process `source` in all of them, or its error raised in all of them."""
    own, content = jax.process_index() == source, b""
    if own:
        content = pickle.dumps((value, None)) if error is None else _pickled(error)
    content = _sent(content, source)
    if not own:
        value, error = pickle.loads(content)
    if error is not None:
        error.add_note(_HERE if own else _ELSEWHERE)
        raise error
    return value


def _pickled(error: Exception) -> bytes:
    try:
        content = pickle.dumps((None, error))
        pickle.loads(content)
    except Exception:  # of an exception that cannot be copied
        return pickle.dumps((None, RuntimeError(in_one_line(error))))
    return content


def _gathered(flag: bool) -> list[bool]:
    """The flags of all processes, in their order."""
    with loss_named():
        return [bool(one) for one in compat.from_all_processes(np.array([flag], np.uint32)).ravel()]


def _sent(content: bytes, source: int) -> bytes:
    """The bytes of process `source`, in every process."""
    content = len(content).to_bytes(8, "little") + content
    received, length, start = bytearray(), _FIRST, 0
    while start < length:
        size = min(_PIECE, max(_FIRST, 1 << (length - start - 1).bit_length()))
        # In few sizes, for each is a program of its own; in words, which all devices can add.
        piece = np.frombuffer(content[start : start + size].ljust(size, b"\0"), np.uint32)
        with loss_named():
            received += compat.from_process(source, piece).tobytes()
        if start == 0:
            length = 8 + int.from_bytes(received[:8], "little")
        start += size
    return bytes(received[8:length])
