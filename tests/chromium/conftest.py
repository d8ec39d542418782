"""A headless Chromium of Debian's, driven by selenium; axe-core, which looks for barriers, from a wheel that has it."""

import importlib.util
import os
import shutil
from pathlib import Path

import pytest


def _axe():
    """axe.min.js in an installed axe-playwright-python, whose Python (it needs playwright) is never imported."""
    spec = importlib.util.find_spec("axe_playwright_python")
    return Path(spec.submodule_search_locations[0], "axe.min.js") if spec else None


def _missing():
    lacking = [name for name in ("chromium", "chromedriver") if not shutil.which(name)]
    lacking += [] if importlib.util.find_spec("selenium") else ["selenium"]
    lacking += [] if _axe() else ["axe-playwright-python"]
    return f"{', '.join(lacking)} is not installed (scripts/test.sh --with chromium installs it)" if lacking else ""


class Browser:
    """One window; `open` a page at a width, in light or dark."""

    def __init__(self, driver):
        self.driver = driver

    def open(self, path, width=1400, dark=False, fragment=""):
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
        self.driver.get("about:blank")
        for kind in ("browser", "performance"):
            self.driver.get_log(kind)
        self.driver.get(path.as_uri() + fragment)

    def find(self, css):
        return self.driver.find_element("css selector", css)

    def all(self, css):
        return self.driver.find_elements("css selector", css)

    def do(self, script, *words):
        return self.driver.execute_script(script, *words)

    def until(self, script, *words, seconds=20):
        """The first true value of a script."""
        from selenium.webdriver.support.ui import WebDriverWait

        return WebDriverWait(self.driver, seconds, 0.05).until(lambda _: self.do(script, *words))

    def keys(self, *keys):
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.driver).send_keys(*keys).perform()

    def complaints(self):
        """What the console said since the page was opened."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def barriers(self):
        """axe-core's violations: [(rule, how many, the first place)]."""
        if not self.do("return 'axe' in window"):
            self.do(_axe().read_text(encoding="utf-8"))
        script = "const done = arguments[arguments.length - 1]; axe.run().then((r) => done(r.violations))"
        found = self.driver.execute_async_script(script)
        return [(v["id"], len(v["nodes"]), v["nodes"][0]["html"][:200]) for v in found]


@pytest.fixture(scope="session")
def chromium():
    """The browser of the session; skipped where it is not installed, failed where it was asked for."""
    if why := _missing():
        (pytest.fail if "chromium" in os.environ.get("CILMP_TEST_WITH", "").split() else pytest.skip)(why)
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for word in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    driver.set_script_timeout(120)
    yield Browser(driver)
    driver.quit()


@pytest.fixture
def browser(chromium):
    """The browser; whatever a test does, the console must have stayed empty."""
    yield chromium
    assert not chromium.complaints()
