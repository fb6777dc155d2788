import pytest

from tests.settings.stage import CALLS, SIZES, record


@pytest.fixture(autouse=True)
def recorded(monkeypatch):
    CALLS.clear()
    SIZES.clear()
    hook = record(monkeypatch)
    yield
    hook.remove()


@pytest.fixture(scope="session")
def usual():
    """What probes see with the settings that hold for both values, kept for the settings that share them."""
    return {}
