import pytest

from tcpdconf.config.model import values


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (0, 0),
        ("12", 12),
        ("512MiB", 512 * 2**20),
        ("512 MB", 512_000_000),
        ("1K", 1024),
        ("1KB", 1000),
        ("1kB", 1000),
        ("2T", 2 * 2**40),
        ("7B", 7),
        ("unlimited", -1),
    ],
)
def test_sizes(written: int | str, expected: int) -> None:
    assert values.size(written) == expected


def test_every_unit_can_be_written() -> None:
    assert {values.size(f"1{unit}") for unit in values._SIZE_UNITS} == {*values._SIZE_UNITS.values()}


@pytest.mark.parametrize(
    "written", [-1, True, "", "MiB", "1.5MiB", "1  MB", "1kb", "1kiB", "1 000", "1" * 16]
)
def test_what_is_no_size(written: object) -> None:
    with pytest.raises(ValueError, match="must be a number, a size"):
        values.size(written)
