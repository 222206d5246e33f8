import pytest

from tests.parity.devices import DEVICES


@pytest.fixture(params=DEVICES, scope="session")
def device(request):
    return DEVICES[request.param]()
