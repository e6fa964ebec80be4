"""The loop: it learns, stops in time, keeps the best, and is the same loop after it was killed."""

import csv
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from service.bundle import TabularInput
from service.cli import main
from service.scoring import noise
from tests.training.conftest import ARGUMENTS, EPOCHS, SOURCE, TRAIN, L, new_vae, run, start
from tests.training.kinds import C, D
from training.fit import Epoch, FitRecipe
from training.fit.diagnostics import ACTIVE
from training.fit.loop import BEST, METRICS, DivergedError, fit
from training.fit.rows import StoredRows
from training.model import VAE, ModelRecipe
from training.model.build import build
from training.recipe_files import RecipeError
from training.recipes import Recipe
from training.runs import open_run

BASE_SAMPLES = torch.from_numpy(noise.base_samples(0, 128, L))
HELD_OUT = SOURCE.sample(500, seed=2)


def train(run: Path, vae: VAE | None = None, rows: int = 2000, **options: Any) -> tuple[VAE, list[Epoch]]:
    vae = vae or new_vae()
    run.mkdir(parents=True, exist_ok=True)
    recipe = FitRecipe.model_validate(options)
    return vae, fit(vae, torch.from_numpy(TRAIN[:rows]), torch.from_numpy(HELD_OUT), BASE_SAMPLES, recipe, run)


def metrics(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def but_seconds(path: Path) -> list[dict[str, str]]:
    return [{name: value for name, value in row.items() if name != "seconds"} for row in metrics(path)]


def held_out_elbo(vae: VAE) -> float:
    with torch.no_grad():
        return vae.bounds(torch.from_numpy(HELD_OUT), BASE_SAMPLES).elbo.mean().item()


def test_learns_a_known_distribution(tmp_path: Path) -> None:
    _, history = train(tmp_path, epochs=25, batch_size=32, learning_rate=3e-3)
    elbos = [epoch.held_out_elbo for epoch in history]
    truth = SOURCE.log_evidence(HELD_OUT).mean()
    # No model beats the truth by more than the chance of 500 rows and 128 draws; this one comes close, from far away.
    assert truth - 0.1 < max(elbos) < truth + 0.03
    assert elbos[0] < truth - 0.5
    best = max(history, key=lambda epoch: epoch.held_out_elbo)
    assert best.active_units == L
    assert best.held_out_elbo == pytest.approx(best.held_out_log_likelihood - best.held_out_kl, abs=1e-9)


def test_rows_on_the_disk_train_the_same_model(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", TRAIN)
    columns = np.load(tmp_path / "x.npy", mmap_mode="r")
    part, recipe = np.arange(0, 2000, 3), FitRecipe(epochs=3, batch_size=32)
    found = []
    for rows in (StoredRows(columns, part), torch.from_numpy(TRAIN[part])):
        folder = tmp_path / type(rows).__name__
        folder.mkdir()
        vae = new_vae()
        fit(vae, rows, torch.from_numpy(HELD_OUT), BASE_SAMPLES, recipe, folder)
        found.append(vae.state_dict())
    assert all(torch.equal(tensor, found[1][name]) for name, tensor in found[0].items())


def test_early_stopping_keeps_the_best_weights(tmp_path: Path) -> None:
    # So few rows and so large steps that it overfits at once.
    vae, history = train(tmp_path, rows=24, epochs=200, patience=4, batch_size=8, learning_rate=0.02)
    best = max(history, key=lambda epoch: epoch.held_out_elbo)
    assert len(history) == best.epoch + 4 < 200
    assert history[-1].held_out_elbo < best.held_out_elbo
    assert not vae.training
    assert held_out_elbo(vae) == pytest.approx(best.held_out_elbo, abs=1e-6)
    saved = load_file(tmp_path / BEST)
    assert saved.keys() == vae.state_dict().keys()
    assert all(torch.equal(saved[name], tensor) for name, tensor in vae.state_dict().items())


def test_steps_that_are_far_too_large_are_named(tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match=r"no bound is finite after epoch 1: lower fit\.learning_rate"):
        train(tmp_path, rows=64, epochs=3, batch_size=8, learning_rate=1e30)


@pytest.mark.parametrize(("warmup", "weights"), [(0, [1, 1, 1]), (2, [0.5, 1, 1]), (4, [0.25, 0.5, 0.75])])
def test_kl_weight_rises_over_the_warmup(warmup: int, weights: list[float], tmp_path: Path) -> None:
    _, history = train(tmp_path, rows=64, epochs=3, warmup_epochs=warmup)
    assert [epoch.kl_weight for epoch in history] == weights
    for epoch in history:
        assert epoch.loss == pytest.approx(-epoch.log_likelihood + epoch.kl_weight * epoch.kl, rel=1e-4)


def test_the_importance_weighted_objective_learns_a_known_distribution(tmp_path: Path) -> None:
    options = {"objective": "importance_weighted", "num_draws": 8, "batch_size": 32, "learning_rate": 3e-3}
    _, history = train(tmp_path, epochs=15, schedule="cosine", **options)
    truth = SOURCE.log_evidence(HELD_OUT).mean()
    assert truth - 0.1 < max(epoch.held_out_log_evidence for epoch in history) < truth + 0.03


@pytest.mark.parametrize("beta", [0.5, 4.0])
def test_beta_is_the_weight_of_the_kl_after_the_warmup(beta: float, tmp_path: Path) -> None:
    _, history = train(tmp_path, rows=64, epochs=3, warmup_epochs=2, beta=beta)
    assert [epoch.kl_weight for epoch in history] == [beta / 2, beta, beta]


def test_free_bits_keep_latents_alive(tmp_path: Path) -> None:
    """A latent whose KL costs nothing is under no pressure; if it costs much, the latent dies."""
    _, free = train(tmp_path / "free", vae=new_vae(), epochs=3, free_bits=2.0)
    _, dear = train(tmp_path / "dear", vae=new_vae(), epochs=3)
    assert free[-1].kl > dear[-1].kl
    assert free[-1].loss >= -free[-1].log_likelihood + 2.0 * L - 1e-3


def test_active_units_are_those_whose_mean_varies(tmp_path: Path) -> None:
    vae = new_vae()
    with torch.no_grad():
        vae.encoder[-1].weight[0] = 0  # type: ignore[index, union-attr]
        spread = vae.posterior(torch.from_numpy(HELD_OUT))[0].var(0)
    assert spread[0] < ACTIVE < spread[1]
    _, history = train(tmp_path, vae=vae, rows=16, epochs=1, learning_rate=1e-9)
    assert history[0].active_units == 1


def test_the_run_s_folder(tmp_path: Path) -> None:
    _, history = train(tmp_path, rows=64, epochs=3)
    rows = metrics(tmp_path / METRICS)
    assert list(rows[0]) == [
        *("epoch", "seconds", "kl_weight", "loss", "log_likelihood", "kl"),
        *("held_out_elbo", "held_out_log_likelihood", "held_out_kl", "held_out_log_evidence"),
        *("active_units", "mutual_information", "marginal_kl"),
    ]
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3]
    assert [float(row["held_out_elbo"]) for row in rows] == [epoch.held_out_elbo for epoch in history]
    assert sorted(path.name for path in tmp_path.iterdir()) == [BEST, "checkpoint-3", METRICS, "tensorboard"]
    events = [path for path in (tmp_path / "tensorboard").rglob("events.out.tfevents.*") if path.is_file()]
    content = b"".join(path.read_bytes() for path in events)
    assert b"held_out_elbo" in content
    assert b"active_units" in content


def test_the_same_seed_is_the_same_run_and_another_is_not(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(tmp_path / name, rows=100, epochs=2, batch_size=32, seed=seed)
    assert but_seconds(tmp_path / "a" / METRICS) == but_seconds(tmp_path / "b" / METRICS)
    assert (tmp_path / "a" / BEST).read_bytes() == (tmp_path / "b" / BEST).read_bytes()
    assert but_seconds(tmp_path / "a" / METRICS) != but_seconds(tmp_path / "c" / METRICS)


def test_a_half_written_checkpoint_is_passed_over(tmp_path: Path) -> None:
    train(tmp_path / "whole", new_vae(), rows=100, epochs=4)
    train(tmp_path / "cut", new_vae(), rows=100, epochs=2)
    (tmp_path / "cut" / "checkpoint-3").mkdir()
    (tmp_path / "cut" / "checkpoint-3" / "model.safetensors").write_bytes(b"half of it")
    train(tmp_path / "cut", new_vae(), rows=100, epochs=4)
    assert but_seconds(tmp_path / "cut" / METRICS) == but_seconds(tmp_path / "whole" / METRICS)
    assert (tmp_path / "cut" / BEST).read_bytes() == (tmp_path / "whole" / BEST).read_bytes()


def test_a_run_goes_on_on_another_kind_of_device(tmp_path: Path) -> None:
    train(tmp_path / "whole", rows=100, epochs=4)
    train(tmp_path / "cut", rows=100, epochs=2)
    path = tmp_path / "cut" / "checkpoint-2" / "optimizer.bin"
    state = torch.load(path)
    for group in state["param_groups"]:
        group |= {"lr": torch.tensor(1.0), "capturable": True}  # As on a GPU; Adam refuses it on the CPU.
    torch.save(state, path)
    train(tmp_path / "cut", rows=100, epochs=4)
    assert but_seconds(tmp_path / "cut" / METRICS) == but_seconds(tmp_path / "whole" / METRICS)
    assert (tmp_path / "cut" / BEST).read_bytes() == (tmp_path / "whole" / BEST).read_bytes()


@pytest.mark.parametrize("precision", [pytest.param("tf32", marks=pytest.mark.slow), "bf16"])
def test_lower_precision_learns_the_same(tmp_path: Path, precision: str) -> None:
    _, exact = train(tmp_path / "no", rows=500, epochs=6, batch_size=50)
    AcceleratorState._reset_state()  # Which allows one precision for each process.
    vae, lower = train(tmp_path / precision, rows=500, epochs=6, batch_size=50, mixed_precision=precision)
    AcceleratorState._reset_state()
    assert {parameter.dtype for parameter in vae.parameters()} == {torch.float32}
    differences = [abs(first.loss - second.loss) for first, second in zip(exact, lower, strict=True)]
    assert max(differences) < 0.05
    assert any(differences) == (precision == "bf16")  # TF32 is of GPUs alone.
    assert held_out_elbo(vae) == pytest.approx(max(epoch.held_out_elbo for epoch in lower), abs=1e-6)
    assert torch.backends.cuda.matmul.fp32_precision == ("tf32" if precision == "tf32" else "ieee")


# The command line


def wait_for_epoch(process: subprocess.Popen[str], path: Path, epoch: int) -> None:
    """Wait until so many epochs are recorded, and the next is under way."""
    for _ in range(6000):
        if path.exists() and len(metrics(path)) >= epoch:
            time.sleep(0.1)
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    pytest.fail(f"{path} never had {epoch} epochs")


@pytest.mark.slow
def test_interrupted_and_killed_runs_end_as_if_nothing_had_happened(
    source_rows: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    arguments = ("arrays", "--data", str(source_rows), *ARGUMENTS)
    folder = tmp_path / "runs" / "rows" / "1"

    with start(*arguments, folder=tmp_path) as process:
        wait_for_epoch(process, folder / METRICS, 1)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert not output
    assert "Traceback" not in errors
    hint = re.search(r"Go on with: (lowerbound train arrays .*--resume)$", errors, re.MULTILINE)
    assert hint
    assert str(source_rows) in hint[1]

    with start(*arguments, "--resume", folder=tmp_path) as process:
        wait_for_epoch(process, folder / METRICS, 3)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert 3 <= len(metrics(folder / METRICS)) < EPOCHS
    assert not (tmp_path / "models").exists()

    status, output, errors = run(*arguments, "--resume", folder=tmp_path)
    assert status == 0, errors
    whole = uninterrupted / "runs" / "rows" / "1"
    assert but_seconds(folder / METRICS) == but_seconds(whole / METRICS)
    assert len(metrics(folder / METRICS)) == EPOCHS
    assert (folder / BEST).read_bytes() == (whole / BEST).read_bytes()
    assert [path.name for path in folder.parent.iterdir()] == ["1"]
    for graph in ("encoder.onnx", "elbo.onnx", "weights.bin", "calibration.npz"):
        first, second = (root / "models" / "rows" / "1" / graph for root in (tmp_path, uninterrupted))
        assert first.read_bytes() == second.read_bytes()


def digits(tmp_path: Path, *arguments: str) -> Recipe:
    return Recipe.read("digits", ["--runs", str(tmp_path), *arguments])


@pytest.mark.parametrize("likelihood", ["categorical", "mixed_asinh"])
def test_a_table_without_numbers_goes_on(likelihood: str, tmp_path: Path) -> None:
    model = ModelRecipe(widths=(8,), latent_size=L, likelihood=likelihood)
    rows = np.random.default_rng(0).integers(0, 2, (60, 2)).astype(np.float64)
    for epochs in (1, 2):
        vae = build(model, TabularInput(columns=(C, D)), rows, seed=0)
        recipe = FitRecipe(epochs=epochs)
        history = fit(vae, torch.from_numpy(rows), torch.from_numpy(rows), BASE_SAMPLES, recipe, tmp_path)
        assert len(history) == epochs


def test_resume_needs_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RecipeError, match="no run to resume"):
        open_run(digits(tmp_path, "--resume"), "0" * 64)
    assert main(["train", "digits", "--runs", str(tmp_path), "--out", str(tmp_path / "models"), "--resume"]) == 1
    assert "error: " in (message := capsys.readouterr().err)
    assert f"{tmp_path / 'digits'}: no run to resume" in message


def test_resume_needs_the_same_recipe_and_data(tmp_path: Path) -> None:
    first = open_run(digits(tmp_path), "0" * 64)
    assert open_run(digits(tmp_path, "--resume"), "0" * 64) == first
    with pytest.raises(RecipeError, match=r"another fit\.batch_size, model\.widths; give the same"):
        open_run(digits(tmp_path, "--resume", "--fit.batch_size", "7", "--model.widths", "[9]"), "0" * 64)
    with pytest.raises(RecipeError, match="another data_sha256"):
        open_run(digits(tmp_path, "--resume"), "1" * 64)


def test_every_run_has_a_folder_and_the_latest_is_resumed(tmp_path: Path) -> None:
    folders = [open_run(digits(tmp_path, "--fit.seed", str(seed)), "0" * 64) for seed in range(11)]
    assert [int(folder.name) for folder in folders] == list(range(1, 12))
    assert open_run(digits(tmp_path, "--fit.seed", "10", "--resume"), "0" * 64) == folders[-1]
    with pytest.raises(RecipeError, match=r"11 was run with another fit\.seed"):
        open_run(digits(tmp_path, "--resume"), "0" * 64)


def test_without_a_recipe_there_is_advice(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train"]) == 1
    assert "error: train takes a recipe: arrays, digits, " in capsys.readouterr().err
    assert main(["train", "nothing"]) == 1
    assert "no recipe 'nothing'" in capsys.readouterr().err


# Several processes


def launch(source_rows: Path, folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """Two processes that train one model, as `torchrun` starts them."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    places = ["--out", str(folder / "models"), "--runs", str(folder / "runs")]
    return subprocess.Popen(
        [*torchrun, "-m", "training", "arrays", "--data", str(source_rows), *ARGUMENTS, *places, *arguments],
        cwd=Path(__file__).parents[3],
        env=os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str], folder: Path) -> None:
    with process:
        output, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    assert output.strip() == str(folder / "models" / "rows" / "1")


def process_of_rank(launcher: subprocess.Popen[str], rank: int) -> int:
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    environments = {int(pid): Path(f"/proc/{pid}/environ").read_bytes().split(b"\0") for pid in children}
    (found,) = [pid for pid, variables in environments.items() if b"LOCAL_RANK=%d" % rank in variables]
    return found


@pytest.fixture(scope="module")
def two_processes(source_rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of two processes that nothing befell."""
    folder = tmp_path_factory.mktemp("two")
    finish(launch(source_rows, folder), folder)
    return folder / "runs" / "rows" / "1"


@pytest.mark.slow
def test_two_processes_train_the_same_model(uninterrupted: Path, two_processes: Path) -> None:
    # Each process leaves its own random state: there were two.
    assert len(list((two_processes / f"checkpoint-{EPOCHS}").glob("random_states_*.pkl"))) == 2
    alone = metrics(uninterrupted / "runs" / "rows" / "1" / METRICS)
    for first, second in zip(alone, metrics(two_processes / METRICS), strict=True):
        for figure in ("held_out_elbo", "loss"):
            assert float(second[figure]) == pytest.approx(float(first[figure]), abs=0.02)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="processes are looked up under /proc")
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_costs_no_more_than_its_epoch(
    source_rows: Path, two_processes: Path, tmp_path: Path, rank: int
) -> None:
    folder = tmp_path / "runs" / "rows" / "1"
    with launch(source_rows, tmp_path) as process:
        wait_for_epoch(process, folder / METRICS, 2)
        os.kill(process_of_rank(process, rank), signal.SIGKILL)
        output, _ = process.communicate(timeout=300)  # The other one does not go on alone, nor wait for ever.
    assert process.returncode
    assert not output
    assert 2 <= len(metrics(folder / METRICS)) < EPOCHS
    finish(launch(source_rows, tmp_path, "--resume"), tmp_path)
    assert but_seconds(folder / METRICS) == but_seconds(two_processes / METRICS)
    assert (folder / BEST).read_bytes() == (two_processes / BEST).read_bytes()
