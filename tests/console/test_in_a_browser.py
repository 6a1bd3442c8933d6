"""The console in Chromium: every page, live steps through a restart, racing tabs, hostile text, axe."""

import re
import time
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe

IMAGES = Path(__file__).parents[2] / "out/console"
PAGES = {
    "overview": "/console",
    "policies": "/console/policies",
    "policy": "/console/policies/shown",
    "timeline": "/console/policies/shown/timeline",
    "rules": "/console/policies/shown/rules",
    "rule": "/console/policies/shown/rules/{rule}",
    "fine_tuning": "/console/fine_tuning/{tuning}",
    "faulty": "/console/faulty",
    "recently": "/console/timeline",
    "revision": "/console/policies/shown/revisions/2",
    "jobs": "/console/jobs",
    "job": "/console/jobs/{job}",
    "rollouts": "/console/jobs/{job}/rollouts?step=1",
    "ratios": "/console/jobs/{job}/rollouts?step=1&colour=ratio",
    "steps": "/console/jobs/{job}/rollouts/steps?step=1&step=2",
    "compare": "/console/jobs/compare?job={job}",
    "evaluations": "/console/evaluations",
    "residency": "/console/residency",
    "playground": "/console/playground?model=shown",
    "files": "/console/files",
    "events": "/console/events",
    "find": "/console/find",
    "found": "/console/find?q={answer}",
    "webhooks": "/console/webhooks",
    "keys": "/console/keys",
}
SHOTS = {
    "overview",
    "policy",
    "job",
    "rollouts",
    "ratios",
    "steps",
    "residency",
    "playground",
    "keys",
    "webhooks",
    "timeline",
    "rule",
    "fine_tuning",
    "revision",
    "found",
}
SIZES = {"desktop": (1280, 860), "phone": (390, 844)}
SERIOUS = {"serious", "critical"}


def settled(page, address: str) -> None:
    """Open a page and wait for its scripts."""
    page.goto(address)
    page.wait_for_load_state("load")
    page.wait_for_timeout(300)


def until(page, expression: str, *, seconds: float = 60) -> None:
    """Wait until a page says so; the page's own policy forbids scripts that wait inside."""
    deadline = time.monotonic() + seconds
    while not page.evaluate(expression):
        assert time.monotonic() < deadline, expression
        page.wait_for_timeout(100)


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_page_has_no_serious_finding(page, ids, name, scheme):
    page.emulate_media(color_scheme=scheme)
    settled(page, PAGES[name].format(**ids))
    found = [each for each in Axe().run(page).response["violations"] if each["impact"] in SERIOUS]
    assert [(each["id"], each["nodes"][0]["html"]) for each in found] == []
    assert page.problems == []
    for size, (width, height) in SIZES.items():
        page.set_viewport_size({"width": width, "height": height})
        page.wait_for_timeout(300)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        if name in SHOTS:
            IMAGES.mkdir(parents=True, exist_ok=True)
            page.screenshot(path=IMAGES / f"{name}-{scheme}-{size}.png", full_page=False)


def test_steps_arrive_by_themselves_through_a_gateway_s_restart(page, stack):
    stack.make_policy("followed")
    job_id = stack.submit("followed", steps=1000, prompts_per_step=4, group_size=4)
    stack.wait_for_step(job_id, 2)
    settled(page, f"/console/jobs/{job_id}")
    done = "Number(document.querySelector('#progress progress').value)"
    until(page, f"{done} > {page.evaluate(done)}")
    assert page.locator("#progress canvas").count() > 0
    stack.kill("gateway")
    page.wait_for_timeout(500)
    stack.wait_until_ready()
    until(page, f"{done} > {page.evaluate(done)}", seconds=120)
    until(page, "document.getElementById('live').textContent === 'Live'")
    stack.post(f"/jobs/{job_id}/cancel", {})


def test_two_tabs_race_for_an_alias(page, stack, job):
    settled(page, "/console/policies/shown")
    page.get_by_text("New alias").click()
    page.get_by_label("Name").fill("prod")
    page.locator("#revision").fill("1")
    page.get_by_role("button", name="Make it").click()
    assert page.get_by_role("status").first.inner_text() == "The alias points at the revision now."
    other = page.context.new_page()
    settled(other, page.url)
    page.get_by_label("To revision").fill("2")
    page.get_by_role("button", name="Move prod").click()
    page.wait_for_url("**?said=moved")
    other.get_by_label("To revision").fill("1")
    other.locator("#why").fill("typed here")
    other.get_by_role("button", name="Move prod").click()
    told = other.get_by_role("alert").inner_text()
    assert "Nothing was changed" in told
    assert "moved it to @2" in told
    assert other.locator("#why").input_value() == "typed here"
    other.on("dialog", lambda dialog: dialog.accept())
    other.get_by_role("button", name="Roll back").click()
    other.wait_for_url("**?said=rolled-back")
    assert stack.get("/policies/shown/aliases/prod")["revision"]["number"] == 1


def test_the_playground_streams_answers_next_to_each_other(page, job):
    settled(page, "/console/playground")
    page.get_by_label("Models").fill("tiny, shown, shown@1")
    page.get_by_label("Prompt").fill("abc")
    page.get_by_label("Tokens").fill("8")
    page.get_by_role("button", name="Ask").click()
    until(
        page,
        "[...document.querySelectorAll('#answers .hint')]"
        ".filter(e => e.textContent.startsWith('First token')).length === 3",
    )
    page.locator("#answers a").nth(2).click()
    assert "shown@1" in page.inner_text("main")


@pytest.mark.parametrize("api", ["chat", "completion", "response", "message"])
def test_the_id_of_an_answer_leads_to_the_rollouts_that_made_its_revision(page, answers, api):
    settled(page, "/console/find")
    page.fill("#q", answers[api])
    page.click("main button")
    page.wait_for_load_state("load")
    answered = page.locator("section.answer", has=page.locator("h2", has_text="shown@2"))
    assert "canary" in answered.locator("table").inner_text()
    answered.locator("text=Episodes of wave_").click()
    page.wait_for_load_state("load")
    assert "Group 0 of 4" in page.locator("main").inner_text()


def test_a_job_is_paused_resumed_and_cancelled(page, stack):
    stack.make_policy("driven")
    job_id = stack.submit("driven", steps=200, prompts_per_step=4, group_size=4)
    stack.wait_for_step(job_id, 1)
    settled(page, f"/console/jobs/{job_id}")
    page.on("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Pause").click()
    page.wait_for_url("**?said=paused")
    for _ in range(100):
        if stack.job(job_id)["state"] == "paused":
            break
        page.wait_for_timeout(200)
    settled(page, f"/console/jobs/{job_id}")
    page.get_by_role("button", name="Resume").click()
    page.wait_for_url("**?said=resumed")
    page.get_by_role("button", name="Cancel").click()
    page.wait_for_url("**?said=cancelled")
    assert stack.wait_for_end(job_id)["state"] == "cancelled"


def test_hostile_text_runs_nothing(page, stack):
    stack.post(
        "/policies",
        {
            "name": "hostile",
            "base": "tiny",
            "description": "<img src=x onerror=document.title='run'><script>document.title='run'</script>",
        },
        status=201,
    )
    for address in (
        "/console/policies",
        "/console/policies/hostile",
        "/console/find?q=<script>document.title='run'</script>",
    ):
        settled(page, address)
        assert page.title() != "run"
        assert not page.problems


def test_reading_works_without_scripts(stack, chromium, job):
    context = chromium.new_context(base_url=f"http://127.0.0.1:{stack.port}", java_script_enabled=False)
    page = context.new_page()
    page.goto(f"/console/jobs/{job}")
    page.get_by_label("API key").fill(stack.api_key)
    page.get_by_role("button", name="Sign in").click()
    assert page.url.endswith(f"/console/jobs/{job}")
    assert page.locator("svg polyline").count() > 0
    assert re.search(r"\d+/\d+", page.inner_text("main"))
    page.goto("/console/playground?model=tiny")
    page.get_by_label("Prompt").fill("abc")
    page.get_by_role("button", name="Ask").click()
    assert "Answers" in page.inner_text("h1")
    context.close()


def test_the_keyboard_reaches_the_content(page):
    settled(page, "/console")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"


def test_signing_out_and_in_leads_back_to_the_page(page, stack):
    settled(page, "/console/policies")
    page.get_by_role("button", name="Sign out").click()
    page.goto("/console/policies/shown")
    assert page.get_by_label("API key").is_visible()
    page.get_by_label("API key").fill("tml-wrong")
    page.get_by_role("button", name="Sign in").click()
    assert page.get_by_role("alert").is_visible()
    page.get_by_label("API key").fill(stack.api_key)
    page.get_by_role("button", name="Sign in").click()
    assert page.url.endswith("/console/policies/shown")
