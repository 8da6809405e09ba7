"""Silhouettes, one JSON line: python tests/benchmarks/bench_silhouette.py [--photos FOLDER].

Rendered people whose girth is furthest from the mean, with their true mask: overlap (IoU) with it,
error of girth (along the direction of the betas that changes volume and not stature, in standard
deviations) and of all betas. With --photos: overlap with the mask of MediaPipe's segmentation.
"""

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from rendered import Places, params_of, rendered_people

from bodymodel.model import BodyModel
from bodymodel.render import render_mesh
from curation.datasets import open_dataset
from curation.images import open_image
from curation.observe import observe
from fitting.fit import Fitter
from fitting.masks import mask_field
from fitting.rows import fit_target


def girth(model):
    """Unit vector of betas that changes volume and not stature."""
    faces, count = model.body.faces, model.num_betas
    betas = torch.cat([torch.zeros(1, count), torch.eye(count)])
    vertices = model.forward_pose(torch.zeros(count + 1, 55, 3), betas).vertices.numpy()
    a, b, c = (vertices[:, faces[:, k]] for k in range(3))
    volume = (a * np.cross(b, c)).sum((1, 2)) / 6
    stature = np.ptp(vertices[..., 1], axis=1)
    way, tall = volume[1:] - volume[0], stature[1:] - stature[0]
    way = way - tall * (way @ tall) / (tall @ tall)
    return way / np.linalg.norm(way)


def covered(model, vertices, target, size, shape):
    """(H, W) bool, the body in a picture of this shape."""
    scale = shape[1] / size[0]
    return render_mesh(
        vertices, model.body.faces, target.focal_px * scale, target.center_px * scale,
        shape[1], shape[0], antialias=False, threads=1,
    ).alpha > 0.5  # fmt: skip


def compare(fitter, model, targets, masks, sizes, truth=None):
    way, out = girth(model), {}
    for name in ("off", "on"):
        given = [
            replace(t, silhouette=mask_field(m, s) if name == "on" else None)
            for t, m, s in zip(targets, masks, sizes, strict=True)
        ]
        params = params_of(fitter.fit(given))
        vertices = model(params.map(lambda x: x.float())).vertices.numpy()
        overlap = []
        for v, t, m, s in zip(vertices, targets, masks, sizes, strict=True):
            body = covered(model, v, t, s, m.shape)
            overlap.append((body & m).sum() / (body | m).sum())
        out[name] = {"iou_median": round(float(np.median(overlap)), 3)}
        out[name]["max_beta_median"] = round(float(params.betas.abs().amax(1).median()), 2)
        if truth is not None:
            error = (params.betas - truth.betas).numpy()
            out[name]["girth_error_median"] = round(float(np.median(np.abs(error @ way))), 2)
            out[name]["betas_rms"] = round(float(np.sqrt((error**2).mean())), 2)
    return out


def segmented(photos, cache):
    """People of a folder of photos of one person each, with the detector's mask."""
    import mediapipe

    graph = mediapipe.solutions.holistic.Holistic(static_image_mode=True, enable_segmentation=True)
    samples = {s.image_id: s for s in open_dataset(photos, "folder").iter_samples()}
    targets, masks, sizes = [], [], []
    for seen in observe(samples.values(), source="mediapipe", cache_dir=cache):
        if seen.status != "ok" or seen.person_index:
            continue
        found = graph.process(open_image(samples[seen.image_id].path).decode())
        if found.segmentation_mask is not None:
            targets.append(fit_target(seen, None))
            masks.append(np.asarray(found.segmentation_mask) > 0.5)
            sizes.append((seen.width, seen.height))
    return targets, masks, sizes


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20, help="half heavy, half thin")
    parser.add_argument("--of", type=int, default=200, help="rendered people to choose from")
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--folder", type=Path, help="renders and detections are kept here")
    parser.add_argument("--photos", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    places = Places()
    model, fitter = BodyModel(places.body), Fitter(places.body)
    line = {"name": "silhouette"}
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        if options.count:
            people = rendered_people(folder, options.of, options.seed)
            order = np.argsort(people.truth.betas.numpy() @ girth(model))
            half = options.count // 2
            pick = np.r_[order[:half], order[-half:]]
            truth = people.truth.map(lambda x: x[pick])
            targets, sizes = [people.targets[i] for i in pick], [people.sizes[i] for i in pick]
            vertices = model(truth.map(lambda x: x.float())).vertices.numpy()
            masks = [
                covered(model, v, t, s, s[::-1])
                for v, t, s in zip(vertices, targets, sizes, strict=True)
            ]
            line["renders"] = compare(fitter, model, targets, masks, sizes, truth)
        if options.photos:
            line["photos"] = compare(fitter, model, *segmented(options.photos, folder / "cache"))
    print(json.dumps(line))


if __name__ == "__main__":
    main()
