"""Rates of the regressor, one JSON line: python tests/benchmarks/bench_regressor.py [--people 400].

On a CPU: images a second of training steps of the tiny network, cutting of crops included; seconds
that one photo alone takes with the whole model (tiny, and ResNet-50 at 224 px), reading the file
included; people a second of the lifter alone, and of the whole command ``regressor.predict`` on
labelled photos (no detection) and on photos where MediaPipe has to find the people, start-up
included. Where there is a GPU, also ResNet-50 at 224 px and HRNet-W48 at 256 px: images a second
in batches, and milliseconds alone. Weights are random: rates do not depend on them.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from bench_run import write_dataset
from PIL import Image

from bodymodel.body import BodyData
from bodymodel.files import load_body
from curation.datasets import open_dataset
from curation.images import read_image
from curation.observe import observe
from regressor.augment import AugmentConfig
from regressor.expose import Expose
from regressor.expose_loss import expose_loss
from regressor.losses import LossWeights
from regressor.mixture import Mixture
from regressor.people_regressors import KeypointRegressor
from regressor.predictor import PersonBox, Predictor
from regressor.synthetic import SyntheticConfig, make_people
from regressor.train import model_config

PHOTO = (640, 480)


def seconds(function, repeats: int, wait=lambda: None) -> float:
    """Median wall time of a call, after one that warms up."""
    function()
    times = []
    for _ in range(repeats):
        wait()
        start = time.perf_counter()
        function()
        wait()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def training(body: BodyData, folder: Path, repeats: int, batch: int = 16) -> float:
    """Images a second of steps of the tiny network: crops, forward, backward, Adam."""
    people = make_people(SyntheticConfig(folder / "people", count=50, size=192))
    model = Expose(body, model_config("tiny")).train()
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-4)
    size = model.config.body_size
    mixture = Mixture([people], [1.0], batch, AugmentConfig(), size, 2 * size, seed=0)
    step = iter(range(10**9))

    def once():
        drawn = mixture[next(step)].to("cpu")
        output = model(drawn.pictures)
        terms = expose_loss(model, output, drawn.pictures, drawn.targets, LossWeights())
        optimiser.zero_grad(set_to_none=True)
        torch.stack(list(terms.values())).sum().backward()
        optimiser.step()

    return batch / seconds(once, repeats)


def alone(predictor: Predictor, photo: Path, repeats: int, wait=lambda: None) -> float:
    """Seconds from a file to a body."""
    box = np.array([160.0, 40.0, 420.0, 460.0])
    return seconds(lambda: predictor([PersonBox(read_image(photo)[0], box)]), repeats, wait)


def on_cuda(body: BodyData, photo: Path, batch: int = 64) -> dict[str, float]:
    """Images a second in batches, of crops that are cut and from photos, and milliseconds alone."""
    out = {}
    wait = torch.cuda.synchronize
    people = [PersonBox(read_image(photo)[0], np.array([160.0, 40.0, 420.0, 460.0]))] * batch
    focal, center = torch.full((batch,), 800.0), torch.tensor(PHOTO).expand(batch, 2) / 2
    for name in ("resnet50", "hrnet"):
        predictor = Predictor(Expose(body, model_config(name)).to("cuda"), body)
        cut = predictor.cut(people)
        look = partial(predictor.look, cut, focal, center)
        out[f"{name}_cut_images_per_s"] = round(batch / seconds(look, 5, wait), 1)
        whole = seconds(partial(predictor, people), 5, wait)
        out[f"{name}_images_per_s"] = round(batch / whole, 1)
        out[f"{name}_alone_ms"] = round(1000 * alone(predictor, photo, 20, wait), 1)
    return out


def lifter(body: BodyData, root: Path, device: str, repeats: int) -> tuple[float, float]:
    """People a second, once they are known, and milliseconds of CPU time a person."""
    people = list(observe(open_dataset(root).iter_samples(), source="annotations"))
    regressor = KeypointRegressor(body, device)
    some = people[: regressor.batch]
    rate = len(some) / seconds(lambda: regressor(some), repeats)
    began = time.process_time()
    regressor(some)
    return rate, 1000 * (time.process_time() - began) / len(some)


def command(root: Path, *flags: str) -> dict[str, float]:
    """Run regressor.predict as a user would."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "regressor.predict", str(root), "--overlays", "0", *flags],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    wall = time.perf_counter() - start
    last = json.loads(done.stdout.strip().splitlines()[-1])
    return {
        "people": last["people"],
        "wall_s": round(wall, 1),
        "people_per_s": round(last["people"] / wall, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--people", type=int, default=400)
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    torch.manual_seed(0)
    body = load_body("open")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        photo = folder / "photo.jpg"
        noise = np.random.default_rng(0).integers(0, 255, (*PHOTO[::-1], 3), dtype=np.uint8)
        Image.fromarray(noise).save(photo)
        result = {
            "name": "regressor",
            "device": f"cpu, {torch.get_num_threads()} threads of {os.cpu_count()} cores",
            "tiny_training_images_per_s": round(training(body, folder, options.repeats), 1),
        }
        for size in ("tiny", "resnet50"):
            predictor = Predictor(Expose(body, model_config(size)), body)
            result[f"{size}_photo_alone_s"] = round(alone(predictor, photo, options.repeats), 3)
        write_dataset(folder / "labelled", options.people)
        rate, cpu_ms = lifter(body, folder / "labelled", "cpu", options.repeats)
        result["lifter_people_per_s"] = round(rate, 1)
        result["lifter_cpu_ms_a_person"] = round(cpu_ms, 2)
        result["predict_labelled"] = command(folder / "labelled")
        pictures = folder / "people" / "images"
        result["predict_detected"] = command(pictures, "--dataset", "folder")
        if torch.cuda.is_available():
            result["cuda"] = torch.cuda.get_device_name()
            rate, _ = lifter(body, folder / "labelled", "cuda", options.repeats)
            result["cuda_lifter_people_per_s"] = round(rate, 1)
            result |= {f"cuda_{k}": v for k, v in on_cuda(body, photo).items()}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
