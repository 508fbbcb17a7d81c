"""Promises of federated learning with MONAI's client: what a FedAvg server and two hospitals do in a round."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from conftest import workflow_of
from monai.fl.client import MonaiAlgo, MonaiAlgoStats
from monai.fl.utils.constants import ExtraItems, FlStatistics, ModelType, WeightType
from monai.fl.utils.exchange_object import ExchangeObject

Weights = dict[str, torch.Tensor]
pytestmark = pytest.mark.filterwarnings("ignore:executing the bundle config")


def client(bundle: Path, site: Path, output: Path, rounds: int) -> MonaiAlgo:
    """A hospital's client, initialized; an epoch per round.

    MONAI tells the workflow of the bundle's folder only after it has initialized it a first time.
    """
    knobs = {"datalist_file": str(site), "ckpt_dir": str(output), "output_dir": str(output / "eval")}
    knobs |= {"bundle_root": str(bundle)}
    knobs |= {"val_interval": 1, "studies_per_batch": 1, "schedule_epochs": rounds}
    best = str(output / "model.pt")
    algo = MonaiAlgo(
        str(bundle), send_weight_diff=False, train_kwargs={**knobs}, eval_kwargs={**knobs}, best_model_filepath=best
    )
    algo.initialize({ExtraItems.CLIENT_NAME: site.stem})
    return algo


def weights_of(algo: MonaiAlgo) -> ExchangeObject:
    """What reaches the server: a copy, where the client's own answer shares memory with its network."""
    return deepcopy(algo.get_weights())


def average(answers: list[ExchangeObject]) -> ExchangeObject:
    """FedAvg of clients of as many steps each; counters stay integers."""
    sets = [answer.weights for answer in answers]
    mean = {k: torch.stack([w[k].double() for w in sets]).mean(0).to(v.dtype) for k, v in sets[0].items()}
    return ExchangeObject(weights=mean, weight_type=WeightType.WEIGHTS)


def learned(algo: MonaiAlgo) -> set[str]:
    """Names of what training moves by its gradient, not the statistics of batch norm."""
    return {name for name, _ in algo.trainer.network.named_parameters()}


def distance(one: Weights, other: Weights, names: set[str]) -> float:
    return max(float((one[name] - other[name]).abs().max()) for name in names)


@pytest.mark.parametrize("name, metrics", [
    ("liver_seg", {"val_mean_dice", "slice_dice", "surface_dice_2mm", "hd95_mm"}),
    ("liver_cls", {"val_auc", "val_accuracy", "val_tpr", "val_fpr"}),
])  # fmt: skip
def test_rounds_of_two_hospitals(bundles, sites, tmp_path, name, metrics):
    clients = [client(bundles / name, site, tmp_path / site.stem, rounds=2) for site in sites]
    names = learned(clients[0])
    shared = weights_of(clients[0])
    for _ in range(2):
        answers = []
        for algo in clients:
            algo.train(deepcopy(shared))
            answers.append(weights_of(algo))
            assert answers[-1].statistics[FlStatistics.NUM_EXECUTED_ITERATIONS] > 0
            assert distance(answers[-1].weights, shared.weights, names) > 1e-4  # in the last round, too
        assert distance(answers[0].weights, answers[1].weights, names) > 1e-5  # the hospitals saw other patients
        shared = average(answers)
        for algo in clients:
            found = algo.evaluate(shared).metrics
            assert set(found) == metrics
            assert all(value >= 0 for value in found.values())
            held = algo.evaluator.network.state_dict()
            assert all(torch.equal(held[key], value) for key, value in shared.weights.items())
    for algo, site in zip(clients, sites):
        best = algo.get_weights({ExtraItems.MODEL_TYPE: ModelType.BEST_MODEL}).weights
        assert set(best) == set(shared.weights)
        assert (tmp_path / site.stem / "tensorboard").is_dir()
        algo.finalize()


def test_hospitals_can_tell_what_data_they_have(bundles, sites, tmp_path):
    bundle = bundles / "liver_seg"
    places = {"datalist_file": str(sites[0]), "dataset_dir": str(sites[0].parent)}
    algo = MonaiAlgoStats(str(bundle), workflow=workflow_of(bundle, "train.json", **places, volume_repeats=1))
    algo.initialize({ExtraItems.APP_ROOT: str(tmp_path)})
    stats = algo.get_data_stats({FlStatistics.HIST_BINS: 10, FlStatistics.HIST_RANGE: [-200, 300]}).statistics
    assert [stats[key][FlStatistics.DATA_COUNT] for key in ("train", "eval")] == [2, 1]
    assert stats["train"][FlStatistics.FAIL_COUNT] == 0
    assert stats["train"][FlStatistics.DATA_STATS]["image_stats"]["spacing"]["mean"] == pytest.approx([8, 8, 10])
