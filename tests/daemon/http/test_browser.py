"""The page in Debian's Chromium: with and without JavaScript, by keyboard, for screen readers."""

import contextlib
import functools
import http.server
import pathlib
import threading
from collections.abc import Iterator

import pytest
from selenium.webdriver.common.keys import Keys
from support import engines
from support.running import browsers, daemons, httpclients, reloads
from support.running.browsers import Browser

import page_image
from tcpdconf.daemon.control import client as control_client
from tcpdconf.daemon.http import page

pytestmark = [pytest.mark.slow, pytest.mark.peer]

SCRIPT = "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"
LOOK = "document.dispatchEvent(new Event('visibilitychange'))"  # as when the tab is shown again
SLOTS = "#services tbody td:nth-child(3)"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for all tests."""
    with browsers.started() as made:
        yield made


class Site:
    """A daemon with a service, and its page."""

    def __init__(self, daemon: reloads.Daemon, port: int, where: int, text: str) -> None:
        self.daemon = daemon
        self.port = port
        self.where = where
        self.text = text
        self.url = f"http://127.0.0.1:{port}/"


def configuration(listen: str, where: int) -> str:
    """A daemon with HTTP and a service."""
    own = f'[daemon.http]\nlisten = "{listen}"\n'
    return own + reloads.service(where, name="imap", limits="max_connections = 4\nmax_per_ip = 2")


def answers(end: int | pathlib.Path) -> bool:
    """Return whether the page is there with its service."""
    return "OK:" in httpclients.get(end).text


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A daemon that has banned somebody for a nasty reason, and served and refused a client."""
    port, where = daemons.free_port(), daemons.free_port()
    text = configuration(f"127.0.0.1:{port}", where)
    with reloads.Daemon(tmp_path_factory.mktemp("site"), text) as daemon:
        ban = {"command": "ban", "networks": ["192.0.2.7"], "for": 3600, "reason": SCRIPT}
        assert control_client.ask(daemon.runtime, ban, daemons.SECONDS)["ok"]
        with reloads.held(where), reloads.held(where):
            assert daemons.talk(where) == b""
        daemons.until(functools.partial(answers, port), "the page")
        daemons.until(lambda: "192.0.2.7" in httpclients.get(port).text, "the ban")
        counted = {"accepted_total": 2.0, "connections": 0.0}
        for name, value in counted.items():
            metric = f'tcpdconf_{name}{{service="imap"}}'
            daemons.until(
                lambda metric=metric, value=value: httpclients.value(port, metric) == value,  # type: ignore[misc]
                metric,
            )
        yield Site(daemon, port, where, text)


@contextlib.contextmanager
def rejected(site: Site, more: str) -> Iterator[None]:
    """Have a reload with these further lines rejected, which HTTP tells when the context is entered."""
    site.daemon.refusal(site.text + more)
    daemons.until(lambda: "The last reload was rejected" in httpclients.get(site.port).text, "the reload")
    try:
        yield
    finally:
        site.daemon.change(site.text)
    daemons.until(functools.partial(answers, site.port), "the next reload")


def shows(browser: Browser, selector: str, text: str) -> bool:
    """Return whether an element shows a text; the page looks for news."""
    browser.execute_script(LOOK)
    return text in browser.text(selector)


def test_it_shows_what_the_daemon_does(browser: Browser, site: Site) -> None:
    browser.see(site.url)
    rows = {name: browser.rows(name) for name in ("services", "refused", "bans")}

    assert browser.text(".state") == "OK: 1 service accepts connections."
    name, state, slots, *_, accepted, refused, listeners = rows["services"][0]
    assert (name, state, slots, accepted, refused) == ("imap", "accepts", "0 / 4", "2", "1")
    assert listeners == f"127.0.0.1:{site.where}"
    assert rows["refused"] == [["imap", "1", "1"]]
    assert rows["bans"][0][0] == "192.0.2.7"
    assert "None since the start." in browser.text("#reload")


def test_foreign_text_is_shown_and_not_run(browser: Browser, site: Site) -> None:
    with rejected(site, f'"{SCRIPT}" = 1\n'):
        browser.see(site.url)
        for _ in range(2):  # as the browser reads it, and as the script puts it in
            assert SCRIPT in browser.text("#bans")
            assert SCRIPT in browser.text("#rejected")
            browser.execute_script("document.querySelector('main').textContent = ''")
            daemons.until(functools.partial(shows, browser, "main", "Bans"), "the page")
        assert browser.js("window.hacked") is None
        assert browser.js("document.querySelectorAll('script').length") == 1
        assert browser.js("document.querySelectorAll('img').length") == 0
        assert browser.refusals == []


def test_a_script_that_got_in_would_not_run(browser: Browser, site: Site) -> None:
    """The policy is what counts if escaping fails."""
    browser.see(site.url)
    browser.execute_script(
        "document.body.append(document.createElement('script'));"
        "document.body.lastChild.textContent = 'window.hacked = 1'"
    )

    assert browser.js("window.hacked") is None
    assert [each for each in browser.refusals if "script-src" in each]


def test_a_connection_appears_without_a_reload_of_the_page(browser: Browser, site: Site) -> None:
    """It keeps the focus, what is selected, and how far a region is scrolled."""
    browser.see(site.url, width=320)
    assert browser.text(SLOTS) == "0 / 4"
    browser.execute_script(
        """
        window.same = true;
        const region = document.querySelector("#services .scroll");
        region.focus();
        region.scrollLeft = 40;
        getSelection().selectAllChildren(document.querySelector("#services tbody th"));
        """
    )
    with reloads.held(site.where):
        daemons.until(lambda: browser.text(SLOTS) == "1 / 4", "the connection")  # by the page's own timer
        found = browser.execute_script(
            """
            const region = document.querySelector("#services .scroll");
            const has_focus = document.activeElement === region;
            return [window.same, has_focus, region.scrollLeft, getSelection().toString()];
            """
        )
        assert found == [True, True, 40, "imap"]
    daemons.until(functools.partial(shows, browser, SLOTS, "0 / 4"), "the end")
    assert browser.refusals == []


def test_a_sparkline_grows(browser: Browser, site: Site) -> None:
    """Its second sample is taken after 15 seconds."""
    browser.see(site.url)
    daemons.until(lambda: browser.js("document.querySelector('svg.line') !== null"), "the second sample")

    assert [name for role, name in browser.tree() if role == "image" and name.endswith(" s")]


def test_without_javascript_it_reloads_itself(browser: Browser, site: Site) -> None:
    browser.see(site.url, script=False)
    try:
        first = browser.page_source
        assert '<meta http-equiv="refresh" content="10">' in first
        assert '<th scope="row">imap</th>' in first
        with reloads.held(site.where):
            daemons.until(lambda: "1 / 4" in browser.page_source, "the next load")
    finally:
        browser.cdp("Emulation.setScriptExecutionDisabled", value=False)


def test_with_javascript_it_does_not(browser: Browser, site: Site) -> None:
    browser.see(site.url)

    assert browser.js("document.querySelectorAll('meta[http-equiv]').length") == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_has_no_barriers(browser: Browser, site: Site, scheme: str) -> None:
    with rejected(site, "nonsense = 1\n"), reloads.held(site.where):
        daemons.until(lambda: "1 / 4" in httpclients.get(site.port).text, "the connection")
        browser.see(site.url, scheme=scheme)
        assert browser.barriers() == []


def test_what_screen_readers_are_told(browser: Browser, site: Site) -> None:
    browser.see(site.url)
    tree = browser.tree()

    for landmark in ("banner", "main", "contentinfo"):
        assert landmark in {role for role, _ in tree}
    for title in ("Services", "Refusals by reason", "Bans"):
        assert ("heading", title) in tree
        assert ("region", title) in tree
    for header in (("rowheader", "imap"), ("columnheader", "Slots"), ("columnheader", "Refused")):
        assert header in tree
    assert ("status", "") in tree


def test_a_rejected_reload_is_announced(browser: Browser, site: Site) -> None:
    browser.see(site.url)
    browser.execute_script(
        """
        window.said = [];
        new MutationObserver(() => said.push(document.querySelector("[role=status]").innerText)).observe(
            document.querySelector("[role=status]"), {subtree: true, childList: true, characterData: true});
        """
    )
    with reloads.held(site.where):
        daemons.until(functools.partial(shows, browser, SLOTS, "1 / 4"), "the connection")
        assert browser.js("said") == []  # a number is no news
    with rejected(site, "nonsense = 1\n"):
        daemons.until(functools.partial(shows, browser, ".state", "rejected"), "the state")
        assert browser.js("said.at(-1)") == "Warning: the last reload was rejected."
        assert browser.js("document.title").startswith("Warning: ")
        assert "nonsense" in browser.text("#rejected")
    daemons.until(functools.partial(shows, browser, ".state", "OK:"), "the next reload")
    assert browser.text("#rejected") == ""


def test_by_keyboard(browser: Browser, site: Site) -> None:
    """Each region that may scroll is reached, in order, and the focus is seen."""
    browser.see(site.url)
    regions = browser.js("document.querySelectorAll('.scroll').length")
    for number in range(regions):
        browser.switch_to.active_element.send_keys(Keys.TAB)
        at = "[...document.querySelectorAll('.scroll')].indexOf(document.activeElement)"
        assert browser.js(at) == number
        assert browser.js("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    browser.switch_to.active_element.send_keys(Keys.TAB)
    assert browser.js("document.activeElement.textContent") == "status.json"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_of_the_documentation_has_no_barriers(
    browser: Browser, tmp_path: pathlib.Path, scheme: str
) -> None:
    """It has every section but the rejected reload."""
    found = page_image.status()
    file = tmp_path / "page.html"
    file.write_text(page.html(found, page_image.history(found), "mail.example.org", page_image.NOW))
    browser.see(file.as_uri(), width=320, scheme=scheme)

    assert browser.barriers() == []
    assert browser.js("document.scrollingElement.scrollWidth") <= 320
    assert [name for role, name in browser.tree() if role == "image" and name.endswith(" to 371 in 15 min")]


@pytest.mark.parametrize("width", [320, 768])
def test_a_narrow_screen_scrolls_no_page(browser: Browser, site: Site, width: int) -> None:
    browser.see(site.url, width=width)

    assert browser.js("innerWidth") == width
    assert browser.js("document.scrollingElement.scrollWidth") <= width
    if width == 320:
        assert browser.js("document.querySelector('#services .scroll').scrollWidth") > width


def test_dark_and_light(browser: Browser, site: Site) -> None:
    found = {}
    for scheme in ("light", "dark"):
        browser.see(site.url, scheme=scheme)
        found[scheme] = browser.js("getComputedStyle(document.body).backgroundColor")

    assert found == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 26)"}


def test_a_daemon_that_stops_makes_the_page_old(browser: Browser, tmp_path: pathlib.Path) -> None:
    port, where = daemons.free_port(), daemons.free_port()
    text = configuration(f"127.0.0.1:{port}", where)
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
    with reloads.Daemon(tmp_path / "one", text):
        daemons.until(functools.partial(answers, port), "the page")
        browser.see(f"http://127.0.0.1:{port}/")
        assert browser.text("#stale") == ""
    daemons.until(
        functools.partial(shows, browser, "#stale", "No answer from the daemon since"), "the notice"
    )
    assert "OK:" in browser.text(".state")
    assert browser.js("document.title").startswith("No answer: ")
    assert browser.barriers() == []
    with reloads.Daemon(tmp_path / "two", text):
        daemons.until(lambda: browser.text("#stale") == "", "the next daemon")
        daemons.until(functools.partial(shows, browser, ".state", "OK:"), "its service")
        # it answers before its service accepts, which it says in the title
        daemons.until(lambda: browser.js("document.title").startswith("tcpdconf on "), "the service")


class _Proxy(http.server.BaseHTTPRequestHandler):
    """Forwards what is below /tcpdconf/ to a Unix socket, as a web server in front of the daemon does."""

    path_of_socket: pathlib.Path

    def do_GET(self) -> None:
        """Forward a request."""
        prefix = "/tcpdconf"
        if not self.path.startswith(f"{prefix}/"):
            self.send_error(404)
            return
        found = httpclients.get(self.path_of_socket, self.path.removeprefix(prefix))
        body = found.text.encode()
        self.send_response(found.status)
        for name in ("content-type", "content-security-policy"):
            self.send_header(name, found.headers[name])
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


def test_below_a_path_of_a_proxy(browser: Browser, tmp_path: pathlib.Path) -> None:
    path, where = tmp_path / "http.sock", daemons.free_port()
    handler = type("Handler", (_Proxy,), {"path_of_socket": path})
    with (
        reloads.Daemon(tmp_path, configuration(f"unix:{path}", where)),
        http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as proxy,
    ):
        daemons.until(functools.partial(answers, path), "the page")
        thread = threading.Thread(target=proxy.serve_forever)
        thread.start()
        try:
            base = f"http://127.0.0.1:{proxy.server_port}/tcpdconf/"
            browser.see(base)
            with reloads.held(where):
                daemons.until(functools.partial(shows, browser, SLOTS, "1 / 4"), "the connection")
            assert browser.js("document.querySelector('footer a').href") == f"{base}status.json"
            assert browser.refusals == []
        finally:
            browser.get("about:blank")
            proxy.shutdown()
            thread.join()


def test_the_engine_and_the_hosts_of_a_cluster(browser: Browser) -> None:
    port, where = daemons.free_port(), daemons.free_port()
    with daemons.public_folder() as folder, engines.Engine(folder) as engine:
        text = configuration(f"127.0.0.1:{port}", where).replace(
            "max_per_ip = 2", 'max_per_ip = 2\nscope = "cluster"'
        )
        (folder / "one").mkdir()
        cluster = f'[cluster]\nurl = "{engine.url}"\nname = "mx1"\ndeadline = "250ms"\n'
        with reloads.Daemon(folder / "one", cluster + text) as daemon:
            daemon.await_log("^the engine answers")
            daemons.until(lambda: "tcpdconf_cluster_up 1.0" in httpclients.get(port, "/metrics").text, "it")
            assert httpclients.get(port, "/readyz").text == "ready\n"
            browser.see(f"http://127.0.0.1:{port}/")
            assert browser.text(".state") == "OK: 1 service accepts connections."
            assert "limits hold over all hosts" in browser.text("#cluster p")
            ((name, lease, held),) = browser.rows("cluster")
            assert (name, lease.endswith(" s"), held) == ("mx1 (this host)", True, "0")
            assert browser.barriers() == []

            engine.stop()
            alone = "the engine of the cluster does not answer, limits hold on this host alone"
            daemons.until(functools.partial(shows, browser, ".state", f"Warning: {alone}."), "the page")
            why = functools.partial(shows, browser, "#cluster .warning", "(cannot connect: ")
            daemons.until(why, "the reason")
            assert browser.barriers() == []
            assert httpclients.get(port, "/readyz").text.startswith(
                "ready\nthe engine of the cluster does not"
            )
            assert "tcpdconf_cluster_up 0.0" in httpclients.get(port, "/metrics").text
