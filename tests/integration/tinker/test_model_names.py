"""A sampler checkpoint's path is a model's name of the OpenAI API."""

from urllib.parse import quote

import httpx
import pytest

from tests.integration.tinker.raw import open_run, wait
from tests.integration.tinker.test_refusals import datum

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def path(stack) -> str:
    with stack.api() as api:
        run = open_run(api)
        wait(api, run.submit_pass([datum()]))
        wait(api, run.submit("save_weights", path="named"))
        saved = wait(api, run.submit("save_weights_for_sampler", path="named"))
        return saved["path"]


def ask(stack, model: str, *, key: str | None = None) -> httpx.Response:
    headers = {"authorization": f"Bearer {key or stack.key}"}
    return httpx.get(f"{stack.url}/v1/models/{quote(model, safe='')}", headers=headers, timeout=30)


@pytest.mark.parametrize("form", ["{}", "mint/tiny;{}", "tiny;{}"])
def test_every_form_means_the_revision_and_is_echoed(stack, path: str, form: str) -> None:
    for scheme in ("tinker", "mint"):
        model = form.format(path.replace("tinker://", f"{scheme}://"))
        answer = ask(stack, model)
        assert answer.status_code == 200, answer.text
        told = answer.json()
        assert told["id"] == model
        assert told["parent"] == "tiny"
        assert told["root"].startswith("sha256:")
        assert told["root"] == ask(stack, path).json()["root"]


@pytest.mark.parametrize(
    ("form", "problem"),
    [
        ("smollm2;{}", "the path is of 'tiny'"),
        (";{}", "names no base"),
        ("tiny;copier", "must be tinker://"),
        ("tinker://elsewhere", "must be tinker://"),
    ],
)
def test_what_contradicts_itself_is_refused(stack, path: str, form: str, problem: str) -> None:
    answer = ask(stack, form.format(path))
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"] == "model"
    assert problem in error["message"]


def test_a_training_checkpoint_is_no_model(stack, path: str) -> None:
    answer = ask(stack, path.replace("/sampler_weights/", "/weights/"))
    assert answer.status_code == 400
    assert "save_weights_for_sampler" in answer.json()["error"]["message"]


def test_an_unknown_path_is_404(stack, path: str) -> None:
    assert ask(stack, path + "x").status_code == 404


def test_another_tenants_path_is_404_until_it_is_public(stack, path: str) -> None:
    assert ask(stack, path, key=stack.other_key).status_code == 404
    run, _, checkpoint = path.removeprefix("tinker://").partition("/")
    with stack.api() as api:
        route = f"/training_runs/{run}/checkpoints/{checkpoint}/publish"
        api.post(route).raise_for_status()
        assert ask(stack, path, key=stack.other_key).status_code == 200
        assert ask(stack, f"smollm2;{path}", key=stack.other_key).status_code == 400
        api.delete(route).raise_for_status()
