"""A host for Courier, with access rules for IMAP; one for each module of tests."""

from collections.abc import Iterator

import pytest
from support.courier import courierhost


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[courierhost.Host]:
    courierhost.need("couriertcpd", "makeimapaccess", "makesmtpaccess", "imapd", "pop3d", "esmtpd")
    with courierhost.Host(tmp_path_factory.mktemp("courier")) as made:
        made.path("/etc/courier/imapaccess/test").write_text(courierhost.ACCESS)
        made.run("makeimapaccess")
        made.run("makesmtpaccess")
        yield made
