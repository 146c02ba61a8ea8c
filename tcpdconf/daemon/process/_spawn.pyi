from typing import Final, final

INHERIT: Final = -1
CONNECTION: Final = -2

@final
class _Order: ...  # a capsule

def order(
    argv: bytes,
    base: bytes,
    names: tuple[str, ...],
    stderr: int,
    signals: int,
    keeps_mask: bool,
    limits: tuple[tuple[int, int], ...],
    told: bytes,
    tells_reason: bool,
    /,
) -> _Order: ...
def start(order: _Order, connection: int, variables: dict[str, str], /) -> tuple[int, int]: ...
def outcome(job: int, /) -> tuple[int, int] | None: ...
