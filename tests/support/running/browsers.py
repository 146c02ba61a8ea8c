"""Chromium without a window, as Debian has it."""

import contextlib
import importlib.resources
import os
from collections.abc import Iterator
from typing import Any, Final

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from support import peers

_TAGS: Final = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]
# noted before any script of a page runs
_NOTE: Final = """
window.violations = [];
document.addEventListener("securitypolicyviolation", e => violations.push(e.violatedDirective));
"""


class Browser(webdriver.Chrome):
    """One tab. `refusals` is what the policies of its page have refused."""

    def see(self, url: str, *, width: int = 1000, scheme: str = "light", script: bool = True) -> None:
        """Open a page."""
        size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
        self.cdp("Emulation.setDeviceMetricsOverride", **size)
        self.cdp("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.cdp("Emulation.setScriptExecutionDisabled", value=not script)
        self._errors()  # those of the page before
        self.get(url)

    def cdp(self, command: str, **parameters: Any) -> Any:  # noqa: ANN401 (JSON)
        """The answer of the DevTools protocol."""
        return self.execute_cdp_cmd(command, parameters)

    def js(self, expression: str) -> Any:  # noqa: ANN401 (JSON)
        """The value of an expression on the page."""
        return self.execute_script(f"return {expression}")

    def text(self, selector: str) -> str:
        """The text of an element as it is shown; "" if it is hidden."""
        return str(self.js(f"document.querySelector({selector!r}).innerText"))

    def rows(self, section: str) -> list[list[str]]:
        """The texts of the cells of a section's table."""
        cells = "[...row.cells].map(cell => cell.innerText)"
        found = self.js(f"[...document.querySelectorAll('#{section} tbody tr')].map(row => {cells})")
        return [[str(cell) for cell in row] for row in found]

    def tree(self) -> list[tuple[str, str]]:
        """Return the roles and names for a screen reader, in order."""
        found = self.cdp("Accessibility.getFullAXTree")["nodes"]
        return [
            (str(each["role"]["value"]), str(each.get("name", {}).get("value", "")))
            for each in found
            if not each["ignored"]
        ]

    def barriers(self) -> list[str]:
        """Return the page's accessibility problems that axe-core finds."""
        script = importlib.resources.files("axe_core_python").joinpath("axe.min.js").read_text("utf-8")
        self.execute_script(script)
        found = self.execute_async_script(f"axe.run({{runOnly: {_TAGS}}}).then(arguments[0])")
        assert len(found["passes"]) > 20
        return [f"{each['id']}: {node['html']}" for each in found["violations"] for node in each["nodes"]]

    @property
    def refusals(self) -> list[str]:
        """Return the violations of the page's content security policy, and errors of its scripts."""
        return [*self.js("violations"), *self._errors()]

    def _errors(self) -> list[str]:
        """Return the browser's log since the last call."""
        found = self.get_log("browser")  # type: ignore[no-untyped-call]
        return [each["message"] for each in found if "favicon" not in each["message"]]


@contextlib.contextmanager
def started() -> Iterator[Browser]:
    """A browser; its start takes a second."""
    peers.need("chromium", "chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for argument in ("--headless", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")  # it refuses to have one as root
    browser = Browser(options=options, service=Service("/usr/bin/chromedriver"))
    try:
        browser.set_script_timeout(30)
        browser.cdp("Page.addScriptToEvaluateOnNewDocument", source=_NOTE)
        yield browser
    finally:
        browser.quit()
