"""Talks line by line with mail servers, and tells when they have answered."""

from support.running import daemons

_MANY_LINES = {"CAPA", "LIST", "UIDL", "RETR"}  # commands of POP3 that are answered with several


def dialogue(service: str, port: int, source: str, commands: list[str]) -> list[list[bytes]]:
    """Return a server's greeting, its answer to each command, and its last output until it closes.

    `service` is imap, pop3, smtp or submission; IMAP's tags are numbers.
    """
    said = []
    with daemons.connect(port, source=source) as client, client.makefile("rb") as stream:
        for command in ("", *commands):
            if command:
                client.sendall(f"{command}\r\n".encode())
            answer = [stream.readline()]
            while answer[-1] and not _is_last(service, command, answer[-1]):
                answer.append(stream.readline())
            said.append(answer)
        said.append(stream.readlines())
    return said


def _is_last(service: str, command: str, line: bytes) -> bool:
    """Return whether a server says no more after this line; the command is "" at the beginning."""
    match service:
        case "imap":
            return line[:1].isdigit() or line[:1] == b"+" or not command
        case "smtp" | "submission":
            return line[3:4] == b" "
        case _:
            return line == b".\r\n" or command.partition(" ")[0] not in _MANY_LINES
