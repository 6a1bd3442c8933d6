"""The registry of algorithms: what is built in, and what a stack adds by import path."""

import subprocess
import sys

import pytest

from examples.ipo.algorithm import ALGORITHM as IPO
from mint_common.algorithms import (
    BUILT_IN,
    OPENAI_METHODS,
    Algorithm,
    Algorithms,
    AlgorithmUnknown,
    open_algorithms,
    own_methods,
    task_algorithms,
)
from mint_common.errors import SettingInvalid

PATH = "examples.ipo.algorithm:ALGORITHM"


def test_a_stack_adds_algorithms_by_import_path() -> None:
    algorithms = open_algorithms([PATH])
    assert list(algorithms) == [*BUILT_IN, IPO]
    assert algorithms.named("ipo") is IPO
    gradients = ["dr-grpo", "rloo", "dapo", "gspo", "cispo", "dppo"]
    assert own_methods(algorithms) == [*gradients, "kto", "ipo"]
    assert task_algorithms(algorithms) == ["grpo", *gradients, "opd", "sft", "dpo"]
    with pytest.raises(AlgorithmUnknown, match="'ipo' is neither built in nor named"):
        Algorithms().named("ipo")


def test_each_method_of_openai_has_an_algorithm() -> None:
    methods = {name: Algorithms().named(own).method for name, own in OPENAI_METHODS.items()}
    assert methods == {name: name for name in OPENAI_METHODS}


@pytest.mark.parametrize(
    ("paths", "problem"),
    [
        (["nowhere.at_all:ALGORITHM"], "cannot import 'nowhere.at_all:ALGORITHM': No module named 'nowhere'"),
        (["examples.ipo.algorithm:NOTHING"], "has no attribute 'NOTHING'"),
        (["examples.ipo.algorithm"], "is not of the form package.module:NAME"),
        (["examples.ipo.algorithm:Algorithm"], "must be of mint_common.algorithms.Algorithm, found type"),
        ([PATH, PATH], "there is another algorithm ipo"),
    ],
)
def test_a_wrong_path_is_a_sentence(paths: list[str], problem: str) -> None:
    with pytest.raises(SettingInvalid, match=r"Setting MINT_ALGORITHMS_CUSTOM: .*") as refused:
        open_algorithms(paths)
    assert problem in str(refused.value)


@pytest.mark.parametrize(
    "changes",
    [{"name": "Of Two Words"}, {"metrics": ()}, {"metrics": ("valid_reward_mean",)}, {"rows": "rft"}],
)
def test_an_entry_that_contradicts_itself_is_refused(changes: dict[str, object]) -> None:
    entry = {
        "name": "own",
        "training": "a:B",
        "rows": "sft",
        "learning_rate": 1e-4,
        "metrics": ("valid_loss",),
    }
    with pytest.raises(ValueError, match=r"name|compared by"):
        Algorithm(**{**entry, **changes})  # type: ignore[arg-type]  # wrong on purpose


def test_descriptions_need_no_torch() -> None:
    code = "import examples.ipo.algorithm, sys; assert not {'torch', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
