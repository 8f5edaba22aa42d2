"""What people do with the mouse: the page, and the Prefect UI, in a real browser.

Needs Debian's chromium (`apt-get install chromium`); without it these tests are skipped, and say so. Each step
leaves a picture in `.ci/screenshots/`.
"""

import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conftest import Running, wait_until
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from dropflow.demo import body_of, subject_of
from dropflow.samples import churn_csv
from dropflow.settings import PROJECT

CHROMIUM = shutil.which("chromium")
PICTURES = PROJECT / ".ci" / "screenshots"
SECONDS = 60.0
HOSTILE = ["<img src=x onerror=alert(1)>.csv", "{{ 7*7 }}.csv"]
pytestmark = [
    pytest.mark.stack,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium: apt-get install chromium"),
]
Picture = Callable[[str], None]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    shutil.rmtree(PICTURES, ignore_errors=True)
    with sync_playwright() as playwright:
        # Without its sandbox: where tests run as root it has none.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def tab(browser: Browser) -> Iterator[Page]:
    """A page whose scripts make no error, and ask no question that a name has put into it."""
    context = browser.new_context(viewport={"width": 1280, "height": 860})
    context.set_default_timeout(SECONDS * 1000)
    expect.set_options(timeout=SECONDS * 1000)
    page = context.new_page()
    asked: list[str] = []
    page.on("dialog", lambda dialog: (asked.append(dialog.message), dialog.dismiss()))
    yield page
    context.close()
    assert asked == []


def enter_password(page: Page, running: Running) -> None:
    """As `up` says it."""
    auth = running.settings.prefect_auth
    assert auth
    page.locator("input[type=password]").fill(auth.get_secret_value())
    picture(page, "00-sign-in")
    page.get_by_role("button", name="Login").click()
    expect(page.locator("input[type=password]")).to_have_count(0)


def sign_in(page: Page, running: Running) -> None:
    page.goto(running.settings.prefect_ui)
    enter_password(page, running)


def picture(page: Page, name: str) -> None:
    page.screenshot(path=PICTURES / f"{name}.png")


def drag_and_drop(page: Page, files: dict[str, bytes]) -> None:
    """As the browser does when files of the desktop are let go over the page."""
    transfer = page.evaluate_handle(
        """files => {
            const transfer = new DataTransfer();
            for (const [name, text] of Object.entries(files)) transfer.items.add(new File([text], name));
            return transfer;
        }""",
        {name: content.decode() for name, content in files.items()},
    )
    for event in ("dragover", "drop"):
        page.dispatch_event("#drop", event, {"dataTransfer": transfer})


def row(page: Page, key: str) -> Locator:
    return page.locator("#rows tr").filter(has=page.get_by_text(key, exact=True))


def deployment(running: Running) -> str:
    found: str = running.api("GET", "/deployments/name/preprocess/churn")["id"]
    return found


def choose(page: Page, control: Locator, option: str) -> None:
    """One of a list in Prefect's UI."""
    control.click()
    page.get_by_role("option", name=option, exact=True).click()


def test_a_file_is_dropped_on_the_page_and_seen_to_become_processed(running: Running, tab: Page) -> None:
    tab.goto(running.settings.page)
    tab.select_option("#into", "churn")
    drag_and_drop(tab, {"browser.csv": churn_csv(rows=300, seed=21), "blank.csv": b"\n \n"})
    good, bad = row(tab, "churn/browser.csv"), row(tab, "churn/blank.csv")
    expect(good.locator(".fate")).to_have_text("✓ processed")
    expect(good).to_contain_text("300 rows in, 300 out")
    expect(bad.locator(".fate")).to_have_text("✗ rejected")
    expect(bad).to_contain_text("is blank")
    picture(tab, "01-dropped")
    with tab.expect_popup() as report:
        good.get_by_role("link", name="Report").click()
    expect(report.value.get_by_text("EstimatedSalary").first).to_be_visible()
    picture(report.value, "02-report")
    good.get_by_role("button", name="Explain").click()
    expect(tab.locator("#story")).to_contain_text("processed")
    picture(tab, "03-explained")


def test_on_a_phone_in_the_dark_nothing_is_cut_off(running: Running, browser: Browser) -> None:
    assert running.outcome(running.put("churn/phone.csv", churn_csv(rows=50, seed=26))).fate == "processed"
    context = browser.new_context(viewport={"width": 375, "height": 800}, color_scheme="dark")
    page = context.new_page()
    page.goto(running.settings.page)
    expect(page.locator("#rows tr").first).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(18, 22, 28)"
    picture(page, "04-phone")
    context.close()


def test_hostile_names_are_text_everywhere(running: Running, tab: Page) -> None:
    tab.goto(running.settings.page)
    tab.select_option("#into", "churn")
    for name in HOSTILE:
        # One after the other: together they would be one run's, which is named after their number.
        drag_and_drop(tab, {name: churn_csv(rows=60, seed=22)})
        expect(row(tab, f"churn/{name}").locator(".fate")).to_have_text("✓ processed")
    sign_in(tab, running)
    tab.goto(running.settings.page)
    for name in HOSTILE:
        with tab.expect_popup() as run:
            row(tab, f"churn/{name}").get_by_role("link", name="Run").click()
        expect(run.value.get_by_text(f"churn · {name}").first).to_be_visible()
        # Bad ones, each for a reason of its own, are told at once.
        column = ("Tenure", "HasCrCard")[HOSTILE.index(name)]
        bad = churn_csv(rows=10, seed=27).replace(column.encode(), b"Other", 1)
        running.store.put("raw", f"churn/bad/{name}", bad, "text/csv")
        mail = running.mailbox.wait_for(f"churn/bad/{name}", SECONDS)
        assert mail is not None
        assert subject_of(mail) == f"Rejected: churn · {name}"
        assert f"lacks the columns {column}" in body_of(mail)
    assert tab.locator("#rows img").count() == 0
    picture(tab, "05-hostile-names")


def test_a_custom_run_with_the_median(running: Running, tab: Page) -> None:
    drop = running.put("churn/by-hand.csv", churn_csv(rows=200, seed=23))
    assert running.outcome(drop).fate == "processed"
    # As the link of a message leads there.
    tab.goto(f"{running.settings.prefect_ui}/deployments/deployment/{deployment(running)}/run")
    enter_password(tab, running)
    tab.get_by_role("button", name="Add item").click()
    texts = tab.locator("textarea")
    expect(texts).to_have_count(3)
    texts.nth(1).fill("churn/by-hand.csv")
    choose(tab, tab.get_by_role("button").filter(has_text="as declared"), "median")
    tab.get_by_role("switch").first.click()
    picture(tab, "06-custom-run")
    tab.get_by_role("button", name="Submit").click()
    run = wait_until(
        lambda: next(
            (
                r
                for r in running.runs(drop)
                if r["parameters"].get("numeric_imputation") == "median" and r["state_type"] == "COMPLETED"
            ),
            None,
        ),
        SECONDS,
        "the run with the median",
    )
    assert run["parameters"]["force"] is True
    receipt = running.receipt(drop)
    assert receipt is not None
    assert receipt.flow_run_id == run["id"]
    assert "median" in receipt.steps[1].detail
    tab.goto(running.settings.run_url(run["id"]))
    expect(tab.get_by_text("churn · by-hand.csv").first).to_be_visible()
    expect(tab.get_by_text("Completed").first).to_be_visible()
    picture(tab, "07-custom-run-done")


def test_a_failed_run_is_retried_by_a_click(running: Running, tab: Page) -> None:
    drop = running.put("churn/mend-me.csv", b"\n \n")
    assert running.outcome(drop).fate == "rejected"
    (run,) = running.runs(drop)
    # A link of a message leads there, by way of the password.
    tab.goto(running.settings.run_url(run["id"]))
    enter_password(tab, running)
    expect(tab.get_by_text("Rejected").first).to_be_visible()
    picture(tab, "08-rejected")
    running.store.put("raw", "churn/mend-me.csv", churn_csv(rows=80, seed=24), "text/csv")
    tab.get_by_role("button", name="Open menu").click()
    tab.get_by_role("menuitem", name="Retry").click()
    tab.locator("[role=dialog], [role=alertdialog]").get_by_role("button", name="Retry").click()

    def again() -> dict[str, Any] | None:
        found: dict[str, Any] = running.api("GET", f"/flow_runs/{run['id']}")
        return found if found["run_count"] > 1 and found["state_type"] == "COMPLETED" else None

    wait_until(again, SECONDS, "the second try")
    picture(tab, "09-retried")


def test_an_automation_made_by_clicking_sends_mail(running: Running, tab: Page) -> None:
    sign_in(tab, running)
    tab.goto(f"{running.settings.prefect_ui}/automations/create")
    choose(tab, tab.get_by_label("Trigger Template"), "Flow run state")
    choose(tab, tab.get_by_role("button", name="Any state"), "Completed")
    tab.keyboard.press("Escape")  # the list stays open for more states
    tab.get_by_role("button", name="Next").click()
    tab.get_by_label("select action").click()
    # By key: this list scrolls, and may move under the mouse.
    tab.get_by_role("option", name="Send a notification", exact=True).press("Enter")
    choose(tab, tab.get_by_label("Select notification block"), "dropflow")
    tab.get_by_label("Subject").fill("A run has ended well")
    tab.get_by_label("Body").fill("It is {{ flow_run.id }}.")
    picture(tab, "10-automation")
    tab.get_by_role("button", name="Next").click()
    tab.get_by_label("Automation Name").fill("made by clicking")
    tab.get_by_role("button", name="Save").click()
    made = wait_until(
        lambda: next(
            (
                one
                for one in running.api("POST", "/automations/filter", json={})
                if one["name"] == "made by clicking"
            ),
            None,
        ),
        SECONDS,
        "the automation",
    )
    try:
        expect(tab.get_by_text("made by clicking").first).to_be_visible()
        picture(tab, "11-automations")
        drop = running.put("churn/told-by-click.csv", churn_csv(rows=50, seed=25))
        assert running.outcome(drop).fate == "processed"
        (run,) = running.runs(drop)
        mail = running.mailbox.wait_for(f"It is {run['id']}.", SECONDS)
        assert mail is not None
        assert subject_of(mail) == "A run has ended well"
    finally:
        running.api("DELETE", f"/automations/{made['id']}")
