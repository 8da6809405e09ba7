import os

import pytest

from bodymodel.arrays import body_from_arrays
from bodymodel.body import BodyData
from tests.toy_body import toy_arrays


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what this machine lacks: a GPU, the user's own model files."""
    gpu = [item for item in items if item.get_closest_marker("gpu")]
    if gpu:
        import torch

        if not torch.cuda.is_available():
            for item in gpu:
                item.add_marker(pytest.mark.skip(reason="needs CUDA"))
    if not os.environ.get("PSEUDOGT_MODELS"):
        for item in items:
            if item.get_closest_marker("licensed"):
                item.add_marker(pytest.mark.skip(reason="needs PSEUDOGT_MODELS"))


@pytest.fixture(scope="session")
def toy_body() -> BodyData:
    """A stick-figure SMPL-X body: 55 joints, some 800 vertices, loaded in milliseconds."""
    return body_from_arrays(toy_arrays("smplx"), "smplx", "neutral")


@pytest.fixture(scope="session")
def open_body() -> BodyData:
    """The embedded open body, as users get it."""
    pytest.importorskip("bodymodel.openbody", reason="the open body is not built in yet")
    from bodymodel.files import load_body

    return load_body("open")


@pytest.fixture(scope="session")
def postgres():
    """A PostgreSQL server; Debian: apt-get install postgresql."""
    from tests.postgres import postgres_programs, postgres_server

    if postgres_programs() is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    pytest.importorskip("psycopg", reason="needs pip install psycopg[binary]")
    with postgres_server() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request, tmp_path):
    """An empty database for the decisions, of either kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/decisions.sqlite"
    return request.getfixturevalue("postgres").new_database()
