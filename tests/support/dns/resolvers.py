"""A resolver with its loop, as a worker has it, for tests that wait for what it finds out."""

import functools
import os
from collections.abc import Callable

from tcpdconf.config.model import values
from tcpdconf.daemon.dns import resolvconf, resolver
from tcpdconf.daemon.process import loop
from tcpdconf.policy.dns import query

PATIENCE = 5.0


class Client:
    """Asks these servers."""

    def __init__(
        self,
        *servers: values.ServerAddress,
        timeout: float = PATIENCE,
        attempts: int = 1,
        rotate: bool = False,
        random: Callable[[int], bytes] = os.urandom,
        clock: Callable[[], float] = loop.now,
        min_ttl: float = 0,
        renewed: Callable[[], resolvconf.ResolverSettings | None] = lambda: None,
    ) -> None:
        self.loop = loop.Loop()
        told = resolvconf.ResolverSettings(servers, timeout, attempts, rotate, min_ttl=min_ttl)
        self.resolver = resolver.Resolver(self.loop, told, random=random, clock=clock, renewed=renewed)
        self.clock = clock

    def ask(self, *questions: query.Question, patience: float = PATIENCE) -> list[query.Answer]:
        """Ask at once; the answers in the order of the questions."""
        answers: dict[int, query.Answer] = {}

        def done(index: int, answer: query.Answer) -> None:
            assert index not in answers
            answers[index] = answer
            if len(answers) == len(questions):
                self.loop.stop()

        until = self.clock() + patience
        for index, question in enumerate(questions):
            self.resolver.ask(question, functools.partial(done, index), until)
        if len(answers) < len(questions):
            self.run(patience + 5)
        return [answers[index] for index in range(len(questions))]

    def run(self, seconds: float) -> None:
        """Let the loop go on, for so long unless something stops it."""
        timer = self.loop.after(seconds, self.loop.stop)
        self.loop.run()
        self.loop.cancel(timer)
