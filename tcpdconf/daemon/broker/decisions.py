"""Applies the common limits of several services to the requests of their workers."""

from tcpdconf.daemon.cluster.members import Members, Take
from tcpdconf.daemon.cluster.tally import Decisions, Tally
from tcpdconf.daemon.process import loop


class Broker:
    """Keeps what the workers hold. Each is answered at once, in the order of its requests."""

    def __init__(self, events: loop.Loop) -> None:
        self._tally = Tally()
        self._decisions = Decisions(self._tally)
        self.members = Members(events, self._tally, self._decide, self._told)

    def _told(self) -> None:
        """Clear the list of changed counts, because there is no engine that needs them."""
        self._tally.changed.clear()

    def _decide(self, take: Take) -> None:
        holder = take.member.holder
        answer = self._decisions.answer(holder, take.address, take.most, take.number, loop.now())
        take.member.pending -= 1
        if answer.verdict == "admitted":
            holder.add(take.address, 1, told=True)
        take.member.send([answer])
