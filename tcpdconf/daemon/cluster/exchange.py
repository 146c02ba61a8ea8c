"""Builds one request to the engine from changed counts and from takes, and parses the answer. Pure.

A take asks for the admission of one connection. Only one request is on its way at a time. So each starts with
counts that the engine knows, and the script decides on takes of the same network one after the other.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from tcpdconf.daemon.cluster import scripts
from tcpdconf.daemon.cluster.members import Take
from tcpdconf.daemon.cluster.records import Answer
from tcpdconf.daemon.cluster.tally import Key, Tally

AT_ONCE: Final = 64  # most takes in a request
CHANGES: Final = 500  # most changed counts in a request


class MalformedAnswerError(ValueError):
    """Reports an answer in a form that the script never returns."""


class Exchange:
    """Holds the takes of one request, and its changed counts, each with its index among the keys."""

    def __init__(self, tally: Tally, takes: Sequence[Take], changes: Iterable[Key]) -> None:
        self.takes = takes
        self.counts: dict[Key, int] = {key: place for place, key in enumerate(changes, 1)}
        self._rates: dict[tuple[Key, int, float], int] = {}
        self._limits: list[list[int]] = []  # by take: indexes of the limits that apply
        arguments: list[list[str | int]] = []
        for take in takes:
            one: list[str | int] = []
            concerned = []
            for index, limit in enumerate(take.member.holder.limits):
                key = take.member.holder.key(limit, take.address)
                if key is None:
                    continue
                concerned.append(index)
                enforced = int(limit.enforced)
                if limit.seconds is None:
                    place = self.counts.setdefault(key, len(self.counts) + 1)
                    most = take.most or limit.most if index == 0 else limit.most
                    one += [place, enforced, most, 0, 0]
                else:
                    rate = (key, limit.most, limit.seconds)
                    place = self._rates.setdefault(rate, len(self._rates) + 1)
                    token = f"{limit.seconds * 1e6 / limit.most:.3f}"
                    period = f"{limit.seconds * 1e6:.0f}"
                    one += [place, enforced, token, period, 1 - enforced]
            self._limits.append(concerned)
            arguments.append([len(concerned), *one])
        self._own = [tally.counts.get(key, 0) for key in self.counts]
        self._arguments = arguments

    def command(self, prefix: str, life: str, turn: int) -> list[str | int]:
        """Return the words of the command EVALSHA for this request."""
        keys = [f"{prefix}leases"]
        keys += [
            f"{prefix}c:{space}:{scripts.network(version, length, bits)}"
            for space, version, length, bits in self.counts
        ]
        keys += [
            f"{prefix}r:{space}:{most}/{seconds:g}:{scripts.network(version, length, bits)}"
            for (space, version, length, bits), most, seconds in self._rates
        ]
        command: list[str | int] = ["EVALSHA", scripts.EXCHANGE_SHA, len(keys), *keys, life, turn]
        command += [scripts.KEPT, len(self._own), *self._own, len(self.takes)]
        for arguments in self._arguments:
            command += arguments
        return command

    def answers(self, reply: object) -> list[Answer]:
        """Return the answer to each take.

        Raises:
            MalformedAnswerError: `reply` has another form.
        """
        if not isinstance(reply, list) or len(reply) != 4 * len(self.takes):
            raise MalformedAnswerError
        found = []
        for index, take in enumerate(self.takes):
            values = reply[4 * index : 4 * index + 4]
            if not all(isinstance(value, int) and 0 <= value < 1 << 32 for value in values):
                raise MalformedAnswerError
            refused, which, held, elsewhere = values
            concerned = self._limits[index]
            if which > len(concerned) or (refused and not which):
                raise MalformedAnswerError
            limit = concerned[which - 1] if which else 0
            if refused:
                found.append(Answer("refused", take.number, limit, held, elsewhere))
            else:
                found.append(Answer("admitted", take.number, limit + 1 if which else 0, held, elsewhere))
        return found
