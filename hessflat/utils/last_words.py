"""Standard error by way of a filter: `python last_words.py` copies its input, until that ends.

Where a process cannot be reached, JAX's service ends the others in C++, each with a page about itself. Of that one line
is left, and none where Python has said it before. It stands for itself, for no import may make it slow to start.
"""

import re
import signal
import sys
from typing import BinaryIO

ENDED = "error: another process has ended, or cannot be reached"
CONTINUES = "the same command continues from the last checkpoint"
# An error of the service, or what it says before it ends the process.
_SERVICE = re.compile(rb"[EF]\d{4} \S+ +\d+ (coordination_service\w*|client)\.(cc|h):")


def copy(source: BinaryIO, target: BinaryIO) -> None:
    """Copy lines up to the first that tells of a process that has ended, and drop the rest."""
    for line in source:
        ends = line.startswith(ENDED.encode())
        if not ends and _SERVICE.match(line):
            line, ends = f"{ENDED}; {CONTINUES}\n".encode(), True
        target.write(line)
        target.flush()
        if ends:
            break
    for _ in source:  # what is not read would hold up who writes it
        pass


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # they are for the process that it listens to, which it must outlive
    copy(sys.stdin.buffer, sys.stderr.buffer)
