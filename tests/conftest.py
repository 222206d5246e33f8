import importlib

import array_api_strict
import pytest

array_api_strict.set_array_api_strict_flags(api_version="2024.12")


@pytest.fixture(params=["array_api_compat.numpy", "array_api_strict"], scope="session")
def xp(request):
    return importlib.import_module(request.param)
