"""A list of runs asks a base's trainer once per page of policies, however many runs it shows."""

from types import SimpleNamespace

from mint_common.training import PolicySummary
from services.gateway.http.tinker import listings


class Trainer:
    def __init__(self):
        self.asked = []

    async def summaries(self, policies):
        self.asked.append(len(policies))
        return {each: PolicySummary(1.0) for each in policies}


async def test_runs_of_several_bases_are_summed_up_by_one_question_a_page():
    trainers = {"a": Trainer(), "b": Trainer()}

    async def find(base):
        return trainers[base]

    tinker = SimpleNamespace(catalog=SimpleNamespace(trainers=SimpleNamespace(find=find)))
    runs = [SimpleNamespace(base="a", policy_id=f"a{number}") for number in range(2500)]
    runs += [SimpleNamespace(base="b", policy_id="b0")]
    found = await listings._summaries(tinker, runs)
    assert set(found) == {run.policy_id for run in runs}
    assert (trainers["a"].asked, trainers["b"].asked) == ([1000, 1000, 500], [1])
