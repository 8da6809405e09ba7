import pytest

from regressor.synthetic import SyntheticConfig, make_people


@pytest.fixture(scope="session")
def rendered(tmp_path_factory):
    """Twelve rendered people with their truth."""
    folder = tmp_path_factory.mktemp("people")
    return make_people(SyntheticConfig(folder, count=12, size=160, occluders=0.0))
