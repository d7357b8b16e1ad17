"""What MLflow 3 shows beside a run: the policies it evaluated, its data sets, its evaluations."""

from collections.abc import Callable
from pathlib import Path

import mlflow
import mlflow.entities
import pytest

from ceeh.config.component import Component
from ceeh.data.prompts import digests
from ceeh.tracking.data_set import data_set
from ceeh.types import Prompt
from tests.tracking.conftest import Run

QUESTIONS = [Prompt(uid=f"q{n}", text="1+1?", answer="2", token_ids=(1, n)) for n in range(3)]
HELD_OUT = data_set("evaluation", Component("a.Table", {"path": "test.jsonl"}), QUESTIONS)


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"


@pytest.fixture
def trained(uri: str, run: Callable[..., Run]) -> Run:
    """A run of four steps whose policy was evaluated before, in the middle and at the end."""
    tracked = run(uri)
    tracked.mlflow.log_data_sets(HELD_OUT)
    for step, accuracy in ((0, 0.9), (2, 0.6), (4, 0.7)):
        tracked.log(step, **{"eval/accuracy": accuracy, "eval/accuracy_hard": accuracy / 2})
    tracked.mlflow.log_weights({4: tracked.folder / "model"})
    tracked.mlflow.finish()
    return tracked


def best(
    client: mlflow.MlflowClient, run: mlflow.entities.Run
) -> list[mlflow.entities.LoggedModel]:
    return client.search_logged_models(
        [run.info.experiment_id],
        filter_string=f"source_run_id = '{run.info.run_id}'",
        order_by=[{"field_name": "metrics.eval/accuracy", "ascending": False}],
    )


def test_a_search_finds_the_best_policy_whose_weights_are_kept(trained: Run) -> None:
    (model,) = best(trained.client, trained.stored)
    assert (model.name, model.status) == ("run-step-4", "READY")
    assert model.params == {"rollout_step": "4"}
    assert model.tags["weights"] == str(trained.folder / "model")
    facts = HELD_OUT["facts"]
    found = {
        (m.key, m.value, m.step, m.dataset_name, m.dataset_digest) for m in model.metrics or ()
    }
    of_data = (facts["name"], facts["digest"])
    assert found == {
        ("eval/accuracy", 0.7, 4, *of_data),
        ("eval/accuracy_hard", 0.35, 4, *of_data),
    }
    assert sorted(trained.history("eval/accuracy")) == [(0, 0.9), (2, 0.6), (4, 0.7)]
    outputs = trained.stored.outputs
    assert outputs is not None
    assert {output.step for output in outputs.model_outputs} == {2, 4}


def test_a_run_has_its_questions_as_inputs_once(
    trained: Run, uri: str, run: Callable[..., Run]
) -> None:
    again = run(uri, resume_from=4)
    again.mlflow.log_data_sets(HELD_OUT)
    inputs = again.stored.inputs
    assert inputs is not None
    (used,) = inputs.dataset_inputs
    assert used.dataset.name == "test.jsonl"
    assert used.dataset.digest == digests(QUESTIONS)["digest"]
    assert used.dataset.profile == '{"num_rows": 3}'
    assert [(tag.key, tag.value) for tag in used.tags] == [("mlflow.data.context", "evaluation")]


def test_an_evaluation_lies_below_its_training_run_which_stays_as_it_was(
    trained: Run, uri: str, tmp_path: Path
) -> None:
    before = trained.stored
    below = Run(uri, tmp_path / "evaluation", parent=trained.mlflow.state["key"])
    below.mlflow.log_values({"eval/sums/accuracy": 0.8}, 4)
    below.mlflow.finish()
    after = trained.stored
    assert below.stored.data.tags["mlflow.parentRunId"] == trained.run_id
    assert below.stored.data.metrics == {"eval/sums/accuracy": 0.8}
    assert after.info.end_time == before.info.end_time
    assert after.data.metrics == before.data.metrics
    assert after.data.params == before.data.params
    (model,) = best(trained.client, before)
    assert ("eval/sums/accuracy", 0.8) in {(m.key, m.value) for m in model.metrics or ()}


def test_an_end_that_is_delivered_late_is_the_end_of_the_run(
    uri: str, run: Callable[..., Run]
) -> None:
    tracked = run(uri)
    assert tracked.delivered()
    tracked.mlflow.close()
    tracked.mlflow._save(add=[{"status": "FINISHED", "ms": 2_000_000_000_000}])
    assert run(uri).mlflow.deliver()
    assert tracked.client.get_run(tracked.run_id).info.end_time == 2_000_000_000_000
