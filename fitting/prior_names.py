"""The names of the priors that can be chosen, and the files they may be. Torch-free."""

import hashlib
from pathlib import Path

__all__ = ["PRIORS", "find_checkpoint", "prior_file", "prior_sha256"]

PRIORS = ("open", "gaussian", "l2", "none")


def find_checkpoint(path: Path) -> Path:
    """Return the checkpoint of a VPoser release's folder (or the file itself).

    Raises:
        FileNotFoundError: If there is none.
    """
    if path.is_file():
        return path
    found = [
        file
        for folder in (path / "snapshots", path)
        for pattern in ("*.ckpt", "*.pt")
        for file in sorted(folder.glob(pattern))
    ]
    if not found:
        raise FileNotFoundError(
            f"{path} is no VPoser: expected snapshots/*.pt (V1.0) or snapshots/*.ckpt (V02_05) in "
            "it; give the folder that the release unpacks to"
        )
    # Several epochs may lie there; the publisher's loader takes the newest, too.
    return max((f for f in found if f.suffix == found[0].suffix), key=lambda f: f.stat().st_mtime)


def prior_file(choice: str) -> Path | None:
    """Return the file that a choice means, None for a name.

    Args:
        choice: One of PRIORS, a VPoser folder or checkpoint, or SMPLify's ``gmm_08.pkl``.

    Raises:
        FileNotFoundError: If it is neither a name nor something that is there.
    """
    if choice in PRIORS:
        return None
    path = Path(choice).expanduser()
    if not path.exists():
        raise FileNotFoundError(
            f"{choice!r} is neither there nor a name; expected {', '.join(PRIORS)}, the folder of "
            "a VPoser release, or gmm_08.pkl"
        )
    return find_checkpoint(path)


def prior_sha256(choice: str) -> str | None:
    """Return the digest of the file that a choice means, None for a name.

    Raises:
        FileNotFoundError: As prior_file.
    """
    file = prior_file(choice)
    return None if file is None else hashlib.sha256(file.read_bytes()).hexdigest()
