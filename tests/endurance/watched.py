"""Runs `tcpdconf run` with a clock that jumps; on SIGUSR2 each process writes its own records.

Put before the command of a daemon: `python watched.py FOLDER python -m tcpdconf run ...`. What a process
keeps is written to FOLDER/PID: timers, descriptors watched, answers in caches.
"""

import json
import os
import pathlib
import random
import signal
import sys
import time
import weakref
from typing import Any, Final

from tcpdconf.cli import main as cli
from tcpdconf.daemon.dns.cache import Cache
from tcpdconf.daemon.process import loop

_DAY: Final = 86400.0
_made: "weakref.WeakKeyDictionary[object, int]" = weakref.WeakKeyDictionary()  # by which process


def _jump(real: float, chance: random.Random) -> float:
    """Return the time of a clock that is set again and again, forward and back."""
    return real + chance.choice([0.0, -_DAY, _DAY, -1.0, 3600.0])


def main() -> int:
    """Run the daemon."""
    folder = pathlib.Path(sys.argv[1])
    real, chance = time.time, random.Random(1)  # noqa: S311 (no secret)
    time.time = lambda: _jump(real(), chance)
    for kind in (loop.Loop, Cache):
        _remember(kind)

    def tell(_number: int, _frame: object) -> None:
        mine = [each for each, pid in _made.items() if pid == os.getpid()]
        loops = [each for each in mine if isinstance(each, loop.Loop)]
        kept = {
            "timers": sum(len(each._timers) for each in loops),
            "watched": sum(len(each._callbacks) for each in loops),
            "answers": sum(len(each) for each in mine if isinstance(each, Cache)),
        }
        written = folder / f".{os.getpid()}"
        written.write_text(json.dumps(kept))
        written.rename(folder / str(os.getpid()))

    signal.signal(signal.SIGUSR2, tell)
    del sys.argv[1 : sys.argv.index("tcpdconf") + 1]
    return cli.main()


def _remember(kind: Any) -> None:  # noqa: ANN401 (its __init__ is replaced)
    make = kind.__init__

    def made(self: object, *arguments: object, **keys: object) -> None:
        make(self, *arguments, **keys)
        _made[self] = os.getpid()

    kind.__init__ = made


if __name__ == "__main__":
    sys.exit(main())
