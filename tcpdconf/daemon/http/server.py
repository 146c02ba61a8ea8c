"""Serves HTTP clients: reads one request of each, answers it, and closes the connection.

Clients are bounded in number, time and bytes. When all places are taken, a new client displaces the oldest
one, so stalled clients cannot block others.
"""

import socket
from collections.abc import Callable
from typing import Final

from tcpdconf.daemon.http import request
from tcpdconf.daemon.http.request import BadRequestError, Request
from tcpdconf.daemon.http.response import Response
from tcpdconf.daemon.process import loop

CLIENTS: Final = 64
_HEAD: Final = 8192  # most bytes of a request's head
_READING: Final = 5.0  # seconds for a request to arrive
_WRITING: Final = 20.0  # seconds for the client to read the answer
_CLOSING: Final = 1.0  # seconds for the client to close, after the answer
_AT_ONCE: Final = 16  # most clients accepted in one turn
_CHUNK: Final = 65536
_BREATHER: Final = 1.0  # seconds without accepting after descriptors have run out

Answer = Callable[[Request], Response]


class Server:
    """Accepts clients from a listening socket; `answer` makes the answers.

    `admits` is called with a client's address, and returns whether to answer the client. The address of a
    client of a Unix socket is empty.
    """

    def __init__(
        self, events: loop.Loop, listener: socket.socket, answer: Answer, admits: Callable[[str], bool]
    ) -> None:
        self._loop = events
        self._listener = listener
        self._answer = answer
        self._admits = admits
        self._clients: dict[_Client, None] = {}  # the oldest first
        self._listen()

    def _listen(self) -> None:
        self._loop.watch(self._listener, self._accept)

    def _accept(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                end, address = self._listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError:
                self._loop.forget(self._listener)
                self._loop.after(_BREATHER, self._listen)
                return
            if not self._admits(address[0] if isinstance(address, tuple) else ""):
                end.close()
                continue
            if len(self._clients) >= CLIENTS:
                next(iter(self._clients)).close()
            end.setblocking(False)
            self._clients[_Client(self._loop, end, self._answer, self._forget)] = None

    def _forget(self, client: "_Client") -> None:
        del self._clients[client]


class _Client:
    """Reads the request of one client, writes the answer, and waits for the client to close."""

    def __init__(
        self, events: loop.Loop, end: socket.socket, answer: Answer, gone: Callable[["_Client"], None]
    ) -> None:
        self._loop = events
        self._end = end
        self._answer = answer
        self._gone = gone
        self._head = b""
        self._rest = memoryview(b"")
        self._loop.watch(end, self._read)
        self._timer = self._loop.after(_READING, self.close)

    def close(self) -> None:
        """Close the connection, even if the answer is not complete."""
        self._loop.cancel(self._timer)
        self._loop.forget(self._end)
        self._end.close()
        self._gone(self)

    def _read(self) -> None:
        self._head += self._received(_HEAD)
        head, complete, _ = self._head.partition(request.END)
        if not complete and len(self._head) <= _HEAD:
            return
        self._respond(head if complete and len(head) <= _HEAD else None)

    def _respond(self, head: bytes | None) -> None:
        """Answer the request with this head; None means that the head was too large."""
        with_body = True
        try:
            if head is None:
                response = Response.plain(431, "the request is too large")
            else:
                asked = request.parse(head)
                with_body = asked.method != "HEAD"
                response = self._answer(asked)
        except BadRequestError as error:
            response = Response.plain(400, str(error))
        self._rest = memoryview(response.written(with_body=with_body))
        self._head = b""
        self._await(self._write, _WRITING, writing=True)
        self._write()

    def _write(self) -> None:
        try:
            while self._rest:
                self._rest = self._rest[self._end.send(self._rest[:_CHUNK]) :]
            # with unread data, close(2) would send a reset, which could lose the answer
            self._end.shutdown(socket.SHUT_WR)
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        self._await(self._discard, _CLOSING)

    def _discard(self) -> None:
        """Read and drop the data after the request, until the client closes."""
        self._received(_CHUNK)

    def _received(self, most: int) -> bytes:
        """Return data of the client, which may be empty; close if the client has closed."""
        try:
            data = self._end.recv(most)
        except BlockingIOError:
            return b""
        except OSError:
            data = b""
        if not data:
            self.close()
        return data

    def _await(self, callback: Callable[[], object], seconds: float, *, writing: bool = False) -> None:
        """Call back when the client is readable or writable from now on; close it after some seconds."""
        self._loop.forget(self._end)
        self._loop.watch(self._end, callback, writing=writing)
        self._loop.cancel(self._timer)
        self._timer = self._loop.after(seconds, self.close)
