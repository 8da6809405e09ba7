"""Measure predictions by the field's protocols: ``python -m regressor.evaluate PROTOCOL DATA``.

    python -m regressor.evaluate ehf EHF/ --predictions out.npz --body models/ --files extra/
    python -m regressor.evaluate 3dpw 3DPW/ --checkpoint model.safetensors --body models/

Protocols: ehf, 3dpw, human36m, agora, freihand, stirling, coco. Prints the papers' table, n, what
is missing, and one line of JSON.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

if TYPE_CHECKING:
    from regressor.evaluation.inputs import Files, Person, Predictions, Report

Protocol = Literal["ehf", "3dpw", "human36m", "agora", "freihand", "stirling", "coco"]


@dataclass(frozen=True)
class EvaluateConfig:
    """What is measured against what. Every field is a flag."""

    protocol: Annotated[Protocol, tyro.conf.Positional]
    """Whose rules."""
    data: Annotated[Path, tyro.conf.Positional]
    """The data set's folder (agora: npz of the truth; coco: person_keypoints JSON)."""
    predictions: Path | None = None
    """npz with 'key' and arrays (docs/regressor.md); coco: results JSON; agora: npz or folder."""
    checkpoint: Path | None = None
    """Predict with these weights first (ehf, 3dpw, human36m, coco in the true boxes)."""
    body: str = "open"
    """SMPL-X of the predictions: open, or your own models' folder."""
    models: Path | None = None
    """Folder of your SMPL models, the truth of 3dpw. [BODY]"""
    files: Path | None = None
    """Folder of your licensed files: SMPLX_to_J14.pkl, J_regressor_h36m.npy, vertex lists."""
    stride: int = 5
    """human36m: every so many frames; 64 as Hand4Whole."""
    scale: bool = False
    """stirling: the prediction's size is free, as in NoW's."""
    save: Path | None = None
    """Keep what the checkpoint predicted, as an npz."""
    batch: int = 16
    """Photos that the checkpoint sees at once."""
    device: str = "cpu"
    """Where it runs."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns 0 if done, 1 if it cannot be measured, 2 on bad usage."""
    config = tyro.cli(EvaluateConfig, args=argv, description=__doc__)
    if (config.predictions is None) == (config.checkpoint is None):
        sys.stderr.write("regressor.evaluate: give --predictions or --checkpoint, one of them\n")
        return 2
    if config.stride < 1 or config.batch < 1:
        sys.stderr.write("regressor.evaluate: --stride and --batch must be at least 1\n")
        return 2
    try:
        report = evaluate(config)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"regressor.evaluate: {error}\n")
        return 1
    sys.stdout.write(report_text(config.protocol, report))
    return 0


def evaluate(config: EvaluateConfig) -> "Report":
    """Measure as configured.

    Raises:
        ValueError: If it cannot be (EvaluationError, with how to go on).
        FileNotFoundError: If a file or model is not there.
    """
    from bodymodel.files import load_body
    from regressor.evaluation.inputs import EvaluationError, Files

    if not config.data.exists():
        raise EvaluationError(f"{config.data} does not exist")
    models = config.models or (None if config.body == "open" else Path(config.body))
    files = Files(config.files, load_body(config.body), models)
    if config.protocol == "agora":
        if config.predictions is None:
            raise EvaluationError("agora measures whom a detector found: give --predictions")
        from regressor.evaluation.agora import evaluate_agora

        return evaluate_agora(config.data, config.predictions, files)
    if config.protocol == "coco":
        from regressor.evaluation.coco import evaluate_coco, read_results, results_of

        if config.predictions is not None:
            return evaluate_coco(config.data, read_results(config.predictions))
        return evaluate_coco(config.data, results_of(_predictions(config, files)))
    return _measure(config, _predictions(config, files), files)


def _measure(config: EvaluateConfig, predictions: "Predictions", files: "Files") -> "Report":
    from regressor.evaluation.ehf import evaluate_ehf
    from regressor.evaluation.freihand import evaluate_freihand
    from regressor.evaluation.human36m import evaluate_human36m
    from regressor.evaluation.stirling import evaluate_stirling
    from regressor.evaluation.threedpw import evaluate_3dpw

    if config.protocol == "human36m":
        return evaluate_human36m(config.data, predictions, files, config.stride)
    if config.protocol == "stirling":
        return evaluate_stirling(config.data, predictions, files, config.scale)
    measure = {"ehf": evaluate_ehf, "3dpw": evaluate_3dpw, "freihand": evaluate_freihand}
    return measure[config.protocol](config.data, predictions, files)


def _predictions(config: EvaluateConfig, files: "Files") -> "Predictions":
    from regressor.evaluation.freihand import read_freihand_predictions
    from regressor.evaluation.inputs import EvaluationError, read_predictions

    if config.predictions is not None:
        if config.protocol == "freihand":
            return read_freihand_predictions(config.predictions)
        return read_predictions(config.predictions)
    from regressor.evaluation.coco import people_of_coco
    from regressor.evaluation.ehf import people_of_ehf
    from regressor.evaluation.human36m import people_of_human36m
    from regressor.evaluation.threedpw import people_of_3dpw

    find = {"ehf": people_of_ehf, "3dpw": people_of_3dpw, "coco": people_of_coco}
    if config.protocol == "human36m":
        people = people_of_human36m(config.data, config.stride)
    elif config.protocol in find:
        people = find[config.protocol](config.data)
    else:
        raise EvaluationError(
            f"{config.protocol} shows parts, and this model looks at whole people: give "
            "--predictions"
        )
    return predict_people(config, people, files)


def predict_people(
    config: EvaluateConfig, people: "Sequence[Person]", files: "Files"
) -> "Predictions":
    """Look at everybody with a checkpoint; a photo that cannot be read is missing.

    Returns:
        ``vertices`` (N, V, 3) metres, camera axes, and ``keypoints_2d`` (N, 145, 2) of the photo;
        coco's without vertices, of which nothing is measured.

    Raises:
        ValueError: If no photo can be read, or the checkpoint is of another body.
    """
    import numpy as np
    import torch
    from tqdm import tqdm

    from bodymodel.model import BodyModel
    from curation.images import ImageError, read_image
    from regressor.checkpoints import load_model
    from regressor.evaluation.inputs import EvaluationError, Predictions
    from regressor.predictor import PersonBox, Predictor
    from regressor.weights import weights_file

    model, _ = load_model(files.body, weights_file(config.checkpoint), config.device)
    predictor = Predictor(model, files.body)
    posed = BodyModel(files.body).to(config.device)
    keys: list[str] = []
    meshes: list[np.ndarray] = []
    points: list[np.ndarray] = []
    with_mesh = config.protocol != "coco"
    last: Exception | None = None
    for first in tqdm(range(0, len(people), config.batch), "photos", disable=None):
        boxes = []
        for person in people[first : first + config.batch]:
            try:
                image = read_image(person.photo)[0]
            except ImageError as error:
                last = error
                continue
            boxes.append(PersonBox(image, person.bbox_xyxy_px, person.focal_px, person.center_px))
            keys.append(person.key)
        if boxes:
            with torch.inference_mode():
                found = predictor(boxes)
                points.append(found.keypoints_2d.cpu().numpy())
                if with_mesh:
                    meshes.append(posed(found.params).vertices.cpu().numpy())
    if not keys:
        raise EvaluationError(f"none of {len(people)} photos can be read; the last: {last}")
    arrays = {"keypoints_2d": np.concatenate(points)}
    if with_mesh:
        arrays["vertices"] = np.concatenate(meshes)
    if config.save is not None:
        with config.save.open("wb") as file:
            np.savez_compressed(file, key=np.array(keys), **arrays)
    return Predictions(tuple(keys), arrays, str(config.checkpoint))


def report_text(protocol: str, report: "Report") -> str:
    """Return the table, the notes, and the line for machines."""
    from curation.tables import text_table

    figures = {k: round(float(v), 4) for k, v in report.figures.items() if v == v}
    lines = [report.title, "", text_table(report.head, report.rows), ""]
    lines += [f"n {report.count}, missing {report.missing}"]
    lines += [f"note: {note}" for note in report.notes]
    summary = {"protocol": protocol, "n": report.count, "missing": report.missing, **figures}
    return "\n".join([*lines, json.dumps(summary)]) + "\n"


if __name__ == "__main__":
    sys.exit(main())
