import pytest

from tests.integration.job import Job
from tests.shared import made_once


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A whole run that nothing interrupted; read it, do not change it."""
    return Job(made_once(tmp_path_factory, "reference", lambda folder: Job(folder).run()))
