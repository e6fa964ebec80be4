"""Score a served model's own test rows over HTTP, and scrambled copies of them.

    make train RECIPE=fashion-mnist && make serve MODELS=models &
    .venv/test/bin/python -m tests.benchmarks.held_out http://127.0.0.1:8000

The rows are found again from the recipe in the served manifest. Prints the mean ELBO beside the manifest's, which was
computed without HTTP; the AUROC of the default score for telling scrambled rows (the values of each row in another
order) from real ones; and false alarms at three levels.
"""

import io
import platform
import sys
import time

import httpx
import numpy as np
import numpy.typing as npt
from rich.progress import track
from sklearn.metrics import roc_auc_score

from service.bundle import Manifest
from training.datasets import split
from training.recipes import Recipe

NPY = {"Content-Type": "application/x-npy", "Accept": "application/x-npy"}
CHUNK = 1000


def score(
    client: httpx.Client, rows: npt.NDArray[np.generic], chunk: int = CHUNK, **query: int
) -> npt.NDArray[np.void]:
    """The answer of `/elbo` to all rows, one record per row."""
    answers = []
    for start in track(range(0, len(rows), chunk), "scoring", transient=True):
        body = io.BytesIO()
        np.save(body, rows[start : start + chunk])
        answer = client.post("/elbo", params=query, content=body.getvalue(), headers=NPY).raise_for_status()
        answers.append(np.load(io.BytesIO(answer.content)))
    return np.concatenate(answers)


def served_model(client: httpx.Client) -> tuple[Manifest, str, npt.NDArray[np.generic]]:
    """The default model's manifest, its device, and the test rows that its recipe held out."""
    served = client.get("/model").raise_for_status().json()
    manifest = Manifest.model_validate(served["manifest"])
    recipe = Recipe.model_validate(manifest.provenance.recipe)
    dataset = recipe.dataset.load(recipe.data)
    if dataset.fingerprint != manifest.provenance.data_sha256:
        sys.exit("the data is not what the model was trained on")
    return manifest, served["device"], dataset.rows[split(dataset, recipe.split).test]


def main(url: str = "http://127.0.0.1:8000") -> None:
    """Print the table."""
    client = httpx.Client(base_url=url, timeout=120)
    manifest, device, rows = served_model(client)
    scrambled = np.random.default_rng(0).permuted(rows.reshape(len(rows), -1), axis=1).reshape(rows.shape)

    started = time.perf_counter()
    real = score(client, rows)
    seconds = time.perf_counter() - started
    strange = score(client, scrambled)
    auroc = roc_auc_score([0] * len(real) + [1] * len(strange), np.concatenate([real["score"], strange["score"]]))
    over_http, in_manifest = real["elbo"].mean(), manifest.metrics["test_elbo"]
    print(
        f"model               {manifest.name} {manifest.version}, {len(rows):,} test rows, {manifest.num_draws} draws"
    )
    print(f"device              {device}, {platform.machine()}")
    print(f"mean ELBO, HTTP     {over_http:.6f} nats")
    print(f"mean ELBO, manifest {in_manifest:.6f} nats, difference {abs(over_http - in_manifest):.1e}")
    print(f"AUROC, scrambled    {auroc:.4f}")
    for level in (0.01, 0.05, 0.1):
        print(f"false alarms at {level:4.0%} {np.mean(real['p_value'] <= level):.4f}")
    print(f"seconds             {seconds:.1f}, {len(rows) / seconds:,.0f} rows a second")


if __name__ == "__main__":
    main(*sys.argv[1:])
