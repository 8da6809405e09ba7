import pytest
import torch

from bodymodel.files import load_body
from conversion.correspondence import build_correspondence
from conversion.transfer import Transfer


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def smpl():
    return load_body("open", "smpl")


@pytest.fixture(scope="session")
def smplx():
    return load_body("open", "smplx")


@pytest.fixture(scope="session")
def up_match(smpl, smplx):
    return build_correspondence(smpl, smplx)


@pytest.fixture(scope="session")
def up(smpl, smplx, up_match):
    return Transfer(smpl, smplx, correspondence=up_match)


@pytest.fixture(scope="session")
def down(smplx, smpl):
    return Transfer(smplx, smpl)
