"""Promises of the tracker knob: what TensorBoard and MLflow hold is what the log says."""

from __future__ import annotations

import logging
import re
import shutil
import sys
from pathlib import Path

import pytest
from conftest import run_workflow
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

BUNDLES = ("liver_seg", "liver_cls")
Curves = dict[str, dict[int, float]]  # metric: step: value


@pytest.fixture
def log(caplog):
    """What StatsHandler writes, whose logger hands nothing on."""
    logger = logging.getLogger("monai.handlers.StatsHandler")
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory) -> Path:
    """An MLflow store without runs: making its tables takes seconds, a copy nothing."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("store") / "mlruns.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


def run(bundle: Path, site: Path, output: Path, *overlays: str, **knobs):
    """Run train.json with overlays, two epochs; returns the finished workflow."""
    own = {"datalist_file": str(site), "ckpt_dir": str(output), "output_dir": str(output / "eval")}
    own |= {"val_interval": 1, "epochs": 2, "studies_per_batch": 1}
    return run_workflow(bundle, "train.json", *overlays, **{**own, **knobs})


def logged(records: list[logging.LogRecord]) -> Curves:
    """The metrics per epoch that StatsHandler wrote to the log."""
    curves: Curves = {}
    for message in (record.getMessage() for record in records):
        if epoch := re.match(r"Epoch\[(\d+)\] Metrics -- ", message):
            for name, value in re.findall(r"(\w+): ([\d.]+)", message[epoch.end() :]):
                curves.setdefault(name, {})[int(epoch[1])] = float(value)
    return curves


def tensorboard_curves(folder: Path) -> Curves:
    events = EventAccumulator(str(folder)).Reload()
    return {tag: {e.step: e.value for e in events.Scalars(tag)} for tag in events.Tags()["scalars"]}


def mlflow_runs(store: Path, experiment: str) -> list:
    """The store's client, and its runs from the oldest to the newest."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{store}")
    place = client.get_experiment_by_name(experiment).experiment_id
    return client, client.search_runs(place, order_by=["attributes.start_time ASC"])


def mlflow_curves(client, mlflow_run) -> Curves:
    history = {name: client.get_metric_history(mlflow_run.info.run_id, name) for name in mlflow_run.data.metrics}
    return {name: {m.step: m.value for m in metrics} for name, metrics in history.items()}


def agrees(found: Curves, log: Curves, metrics: set[str]) -> None:
    """Every metric of the log is in the store, epoch by epoch, up to the log's four digits."""
    assert set(log) == metrics
    for name, curve in log.items():
        assert found[name] == pytest.approx(curve, abs=6e-5), name


METRICS = {
    "liver_seg": {"val_mean_dice", "train_dice"},
    "liver_cls": {"val_auc", "val_accuracy", "val_tpr", "val_fpr", "train_auc"},
}
EXPERIMENT = {"liver_seg": "liver_ct_segmentation", "liver_cls": "liver_tumor_ct_classification"}


@pytest.mark.parametrize("name", BUNDLES)
def test_tensorboard_is_the_default_and_holds_loss_rate_and_metrics(bundles, sites, tmp_path, log, name):
    workflow = run(bundles / name, sites[0], tmp_path)
    curves = tensorboard_curves(tmp_path / "tensorboard")
    agrees(curves, logged(log.records), METRICS[name])
    steps = workflow.trainer.state.iteration
    assert list(curves["train_loss"]) == list(curves["learning_rate"]) == list(range(1, steps + 1))
    assert curves["train_loss"][steps] == pytest.approx(workflow.trainer.state.output[0]["loss"])
    assert not (tmp_path / "mlruns.db").exists()


@pytest.mark.parametrize("name", BUNDLES)
def test_mlflow_holds_loss_rate_metrics_knobs_and_configs_and_an_evaluation_of_its_own(
    bundles, sites, tmp_path, log, empty_store, name
):
    shutil.copy(empty_store, tmp_path)
    workflow = run(bundles / name, sites[0], tmp_path, tracker="mlflow", weight_decay=0.03)
    said = logged(log.records)
    log.clear()
    run(bundles / name, sites[0], tmp_path, "evaluate.json", tracker="mlflow", ckpt_path=str(tmp_path / "model.pt"))
    assert not (tmp_path / "tensorboard").exists()

    client, (training, evaluation) = mlflow_runs(tmp_path / "mlruns.db", EXPERIMENT[name])
    assert (training.info.status, evaluation.info.status) == ("FINISHED", "FINISHED")
    curves = mlflow_curves(client, training)
    agrees(curves, said, METRICS[name])
    steps = workflow.trainer.state.iteration
    assert list(curves["train_loss"]) == list(curves["lr_group_0"]) == list(range(1, steps + 1))
    assert curves["train_loss"][steps] == pytest.approx(workflow.trainer.state.output[0]["loss"])
    assert training.data.params["weight_decay"] == "0.03"
    assert training.data.params["max_epochs"] == "2"
    artifacts = {file.path for file in client.list_artifacts(training.info.run_id)}
    assert {"train.json", "metadata.json"} <= artifacts

    said = logged(log.records)
    agrees(mlflow_curves(client, evaluation), said, set(evaluation.data.metrics))
    assert {metric for metric in METRICS[name] if metric.startswith("val")} <= set(said)
    assert evaluation.data.params["ckpt_path"] == str(tmp_path / "model.pt")


def test_a_named_run_goes_on_after_a_break(bundles, sites, tmp_path, empty_store):
    """A killed training leaves its run open; the same --run_name finds it again."""
    shutil.copy(empty_store, tmp_path)
    knobs = {"tracker": "mlflow", "run_name": "mine", "schedule_epochs": 2}
    run(bundles / "liver_cls", sites[0], tmp_path, epochs=1, **knobs)
    client, (first,) = mlflow_runs(tmp_path / "mlruns.db", EXPERIMENT["liver_cls"])
    client.set_terminated(first.info.run_id, "RUNNING")
    run(bundles / "liver_cls", sites[0], tmp_path, epochs=2, **knobs)
    client, runs = mlflow_runs(tmp_path / "mlruns.db", EXPERIMENT["liver_cls"])
    assert [r.info.run_name for r in runs] == ["mine"]
    assert list(mlflow_curves(client, runs[0])["val_auc"]) == [1, 2]


@pytest.mark.parametrize("name", BUNDLES)
def test_no_tracker_leaves_weights_only(bundles, sites, tmp_path, name):
    run(bundles / name, sites[0], tmp_path, tracker="none", epochs=1)
    assert {path.suffix for path in tmp_path.iterdir()} == {".pt"}


@pytest.mark.parametrize("name", BUNDLES)
@pytest.mark.parametrize(
    "knobs, message",
    [
        ({"tracker": "mlflow"}, "ERROR --tracker mlflow: MLflow is not installed. Run pip install mlflow"),
        ({"tracker": "wandb"}, "ERROR --tracker wandb: unknown. Use tensorboard, mlflow, none."),
    ],
)
def test_a_tracker_that_is_not_there_is_one_line_before_training(
    bundles, sites, tmp_path, monkeypatch, name, knobs, message
):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(SystemExit) as stop:
        run(bundles / name, sites[0], tmp_path / "run", **knobs)
    assert str(stop.value).startswith(message) and "\n" not in str(stop.value)
    assert not (tmp_path / "run").exists()


def test_a_place_that_is_no_uri_is_one_line(bundles, sites, tmp_path):
    with pytest.raises(SystemExit, match=r"^ERROR --tracking_uri /data/mlruns: is no URI. Use sqlite:"):
        run(bundles / "liver_seg", sites[0], tmp_path, tracker="mlflow", tracking_uri="/data/mlruns")
