"""A browser for the tests of the report, and reports of runs that never ran."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import forks
import pytest
import synthetic
from playwright.sync_api import Browser, Locator, Page, sync_playwright

ROOT = Path(__file__).parents[2]
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")


@contextmanager
def chromium() -> Iterator[Browser]:
    """The system's Chromium, headless; without one the test skips, or fails where REQUIRE_BROWSER is set."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not found:
        if os.environ.get("REQUIRE_BROWSER"):
            pytest.fail("REQUIRE_BROWSER is set, and there is no chromium")
        pytest.skip("no chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=list(FLAGS))
        yield browser
        browser.close()


@contextmanager
def opened(browser: Browser, path: Path, **context: Any) -> Iterator[Page]:
    """The report from disk, all drawn; afterwards no message of the console, no error and no request may be there."""
    said: list[str] = []
    page = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **context}).new_page()
    page.set_default_timeout(120_000)
    page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: said.append(f"error: {error}"))
    page.on("request", lambda request: said.append(request.url) if request.url != path.as_uri() else None)
    page.goto(path.as_uri())
    page.wait_for_selector("body[data-drawn]")
    yield page
    heard = [text for text in said if not text.startswith(("blob:", "data:"))]
    assert not heard, heard
    page.context.close()


def redrawn(page: Page, act: Any) -> None:
    """Do something that draws the page anew, and wait until it is drawn."""
    before = page.locator("body").get_attribute("data-drawn")
    act()
    page.wait_for_function("before => document.body.dataset.drawn !== before", arg=before)


def numbers(page: Page, figure: str) -> Locator:
    """The numbers under a figure, opened, once they are there: a browser fills them a moment after the click."""
    under = page.locator(f"details[data-table={figure}]")
    under.locator("summary").click()
    under.locator("tbody tr").first.wait_for()
    return under


def make(folder: Path, summaries: list[dict[str, Any]]) -> Path:
    """The report of runs as the workflow makes it; tables are those that need no predictions."""
    synthetic.write(folder, summaries)
    runs, tables = folder / "runs", folder / "tables"
    grid = {key: list(dict.fromkeys(run[key] for run in summaries)) for key in ("dataset", "model", "arm", "seed")}
    given = ["--runs-dir", runs, "--grid", json.dumps(grid), "--output-dir", tables]
    script("check_contract.py", *given, "--baseline", "full", "--declared", "{}", "--tunings-dir", folder / "tune")
    script("make_tables.py", *given, "--contract", tables / "contract.csv", "--data-dir", folder / "data")
    return report(folder, "--data-dir", folder / "data")


def report(folder: Path, *more: Any) -> Path:
    """The report of the runs and tables in `folder`."""
    made, tables = folder / "report.html", sorted((folder / "tables").glob("*.csv"))
    script("make_report.py", "--tables", *tables, "--runs-dir", folder / "runs", "--output", made, *more)
    return made


def script(name: str, *arguments: Any) -> None:
    done = forks.script(ROOT / "workflow_scripts" / name, *arguments)
    assert done.returncode == 0, done.stderr
