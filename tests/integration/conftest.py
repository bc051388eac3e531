import pytest

from tests.integration.job import Job


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A whole run that nothing interrupted; read it, do not change it."""
    job = Job(tmp_path_factory.mktemp("reference"))
    job.run()
    return job
