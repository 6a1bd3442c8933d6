"""Tasks: splits, determinism and rewards."""

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mint_common.errors import InvalidField, NotFound, TaskFailed, TaskLeftOut
from services.rollout.adapters.tasks.catalog import InstalledTasks, installed_families
from services.rollout.adapters.tasks.draw import draw_prompts
from services.rollout.adapters.tasks.mode import FUNCTIONS
from services.rollout.core.task import Task

TASKS = InstalledTasks(installed_families())
FAST = ("progression", "mode:copy", "mode:rev", "mode:rot1", "mode:sort")
VERIFIED = (
    "reasoning-gym:chain_sum",
    "reasoning-gym:countdown",
    "reasoning-gym:gsm_symbolic",
    "reasoning-gym:kakurasu",
    "reasoning-gym:simple_integration",
    "reasoning-gym:spell_backward",
    "reasoning-gym:string_insertion",
)

seeds = st.integers(0, 2**53)


@pytest.mark.parametrize("name", FAST)
@settings(max_examples=25, deadline=None)
@given(train_seed=seeds, heldout_seed=seeds)
def test_no_prompt_is_in_both_splits(name: str, train_seed: int, heldout_seed: int) -> None:
    task = TASKS.task(name)
    train = {prompt.text for prompt in task.prompts("train", 200, train_seed)}
    heldout = {prompt.text for prompt in task.prompts("heldout", 60, heldout_seed)}
    assert not train & heldout


@pytest.mark.parametrize("name", FAST)
@settings(max_examples=25, deadline=None)
@given(seed=seeds, split=st.sampled_from(["train", "heldout"]), n=st.integers(1, 40))
def test_prompts_are_distinct_a_function_of_the_seed_and_their_references_score_one(
    name: str, seed: int, split: str, n: int
) -> None:
    task = TASKS.task(name)
    prompts = task.prompts(split, n, seed)
    assert prompts == InstalledTasks(installed_families()).task(name).prompts(split, n, seed)
    assert len({prompt.text for prompt in prompts}) == len(prompts) == n
    assert [task.reward(prompt.entry, prompt.reference) for prompt in prompts] == [1.0] * n


@pytest.mark.parametrize("name", FAST)
@given(text=st.text(max_size=30))
@settings(max_examples=50, deadline=None)
def test_any_text_has_a_reward(name: str, text: str) -> None:
    task = TASKS.task(name)
    (prompt,) = task.prompts("train", 1, 0)
    assert task.reward(prompt.entry, text) in {0.0, 1.0}


@pytest.mark.parametrize("name", VERIFIED)
def test_a_data_set_of_reasoning_gym_is_a_task(name: str) -> None:
    task = TASKS.task(name)
    train, heldout = task.prompts("train", 12, 7), task.prompts("heldout", 6, 8)
    assert not {prompt.text for prompt in train} & {prompt.text for prompt in heldout}
    assert train == InstalledTasks(installed_families()).task(name).prompts("train", 12, 7)
    assert train != task.prompts("train", 12, 9)
    for prompt in (*train, *heldout):
        assert task.reward(prompt.entry, f" {prompt.reference}\n") == 1.0
        assert task.reward(prompt.entry, "not an answer") < 1.0


def test_a_larger_draw_begins_with_the_smaller_one() -> None:
    task = TASKS.task("progression")
    assert task.prompts("train", 16, 3)[:8] == task.prompts("train", 8, 3)


def test_a_draw_larger_than_the_split_repeats_its_prompts() -> None:
    prompts = TASKS.task("progression").prompts("heldout", 200, 1)
    distinct = {prompt.text for prompt in prompts}
    assert len(prompts) == 200
    assert 50 < len(distinct) < 120


def test_an_empty_split_is_refused() -> None:
    with pytest.raises(InvalidField, match="no prompts in this split"):
        draw_prompts(iter(lambda: None, 0), 1, task="nothing")


def test_progression_wants_exactly_the_next_number() -> None:
    task = TASKS.task("progression")
    assert [task.reward("47", text) for text in ("47", " 47, 54", "47\n", "47.5")] == [1.0] * 4
    assert [task.reward("47", text) for text in ("470", "4", "", "x47", "-47", "\u0664\u0667")] == [0.0] * 6


def test_mode_functions() -> None:
    assert {name: function("caj") for name, function in FUNCTIONS.items()} == {
        "copy": "caj",
        "rev": "jac",
        "rot1": "dba",
        "sort": "acj",
    }
    assert TASKS.task("mode:rev").reward("jac", "jac ") == 0.0


def test_an_unknown_task_is_named_with_near_matches() -> None:
    for name, near in (
        ("progresion", "progression"),
        ("mode:revv", "mode:rev"),
        ("mode", "mode:copy"),
        ("copy", "mode:copy"),
        ("copy:copy", "mode:copy"),
        ("reasoning-gym:chain_sums", "reasoning-gym:chain_sum"),
    ):
        with pytest.raises(NotFound) as caught:
            TASKS.task(name)
        assert caught.value.fields["name"] == name
        assert near in str(caught.value.fields["near"]).split(", ")


@pytest.mark.parametrize(
    ("name", "reason"),
    [("zebra_puzzles", "C compiler"), ("word_ladder", "hash seed"), ("composite", "a name")],
)
def test_a_data_set_that_is_no_task_is_refused_with_the_reason(name: str, reason: str) -> None:
    with pytest.raises(TaskLeftOut, match=reason) as caught:
        TASKS.task(f"reasoning-gym:{name}")
    assert (caught.value.fields["task"], caught.value.http_status) == (f"reasoning-gym:{name}", 422)
    assert f"reasoning-gym:{name}" not in TASKS.names()


WITHOUT_PYCOSAT = """
import sys
sys.modules["pycosat"] = None  # as if it were not installed
from services.rollout.adapters.tasks.catalog import InstalledTasks, installed_families
tasks = InstalledTasks(installed_families())
(prompt,) = tasks.task("reasoning-gym:propositional_logic").prompts("train", 1, 7)
print(len([name for name in tasks.names() if name.startswith("reasoning-gym:")]), "pycosat" in sys.modules)
print(prompt.text)
"""


def test_reasoning_gym_works_without_the_package_that_needs_a_compiler() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_PYCOSAT], capture_output=True, text=True, check=True)
    counted, _, text = done.stdout.partition("\n")
    assert counted == "99 False"
    (prompt,) = TASKS.task("reasoning-gym:propositional_logic").prompts("train", 1, 7)
    assert text == prompt.text + "\n"


def test_every_listed_name_is_a_task() -> None:
    names = TASKS.names()
    assert names == sorted(names)
    assert set(FAST) | set(VERIFIED) <= set(names)
    tasks: list[Task] = [TASKS.task(name) for name in names]
    assert [task.name for task in tasks] == names


def test_a_forged_reasoning_gym_entry_is_refused() -> None:
    task = TASKS.task("reasoning-gym:chain_sum")
    (prompt,) = task.prompts("train", 1, 0)
    forged = (
        '{"question": "?", "answer": "1", "metadata": {}}',
        prompt.entry.replace('"index":', '"index":9'),
        prompt.entry[:-3] + '0"}',
        "not json",
    )
    for entry in forged:
        with pytest.raises(InvalidField):
            task.reward(entry, "1")


def test_what_a_task_of_a_package_raises_is_an_error_of_that_task() -> None:
    tasks = InstalledTasks({"broken": "tests.unit.rollout.broken_tasks:Broken"})
    with pytest.raises(TaskFailed, match=r"broken:init.*KeyError"):
        tasks.task("broken:init")
    with pytest.raises(TaskFailed, match=r"broken:prompts.*ZeroDivisionError: division by zero"):
        tasks.task("broken:prompts").prompts("train", 1, 0)
    with pytest.raises(TaskFailed, match=r"broken:reward.*ValueError: cannot read"):
        tasks.task("broken:reward").reward("a", "b")
    for number in ("nan", "inf", "-1e10"):
        with pytest.raises(TaskFailed, match=rf"broken:{number}.*{float(number)}"):
            tasks.task(f"broken:{number}").reward("a", "b")


def test_a_family_that_does_not_load_hides_no_other_one() -> None:
    mode = "services.rollout.adapters.tasks.mode:Mode"
    tasks = InstalledTasks({"mode": mode, "gone": "tests.unit.rollout.no_such_module:Task"})
    assert tasks.names() == [f"mode:{function}" for function in sorted(FUNCTIONS)]
    assert "ModuleNotFoundError" in tasks.broken["gone"]
    with pytest.raises(TaskFailed, match=r"gone.*ModuleNotFoundError"):
        tasks.task("gone")
