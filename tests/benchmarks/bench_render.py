"""Time of one picture, one JSON line: python tests/benchmarks/bench_render.py [--size 512]."""

import argparse
import json
import os
import statistics
import time

import numpy as np
import torch

from bodymodel.files import load_body
from bodymodel.model import BodyModel
from bodymodel.params import BodyParams
from bodymodel.render import overlay, render_views


def median_ms(function, repeats):
    function()  # loads open3d
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(1000 * (time.perf_counter() - start))
    return round(statistics.median(times), 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args()

    body = load_body("open")
    params = BodyParams.zeros()
    params.global_orient[0] = np.pi
    params.transl[2] = 3.0
    with torch.no_grad():
        vertices = BodyModel(body)(params).vertices.numpy()
    size = options.size
    focal, center = 1.4 * size, (size / 2, size / 2)
    photo = np.full((size, size, 3), 128, np.uint8)

    def front():
        return overlay(photo, vertices, body.faces, focal, center, threads=options.threads)

    def views():
        return render_views(
            photo, vertices, body.faces, focal, center, size, threads=options.threads
        )

    result = {
        "name": "render",
        "device": f"cpu, {options.threads or os.cpu_count()} threads",
        "size_px": size,
        "vertices": len(vertices),
        "overlay_ms": median_ms(front, options.repeats),
        "three_views_ms": median_ms(views, options.repeats),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
