"""Feast is imported without being rewritten, and nothing else notices."""

import subprocess
import sys

SCRIPT = """
import typeguard
before = typeguard.typechecked
from batchrec.features.feast_import import import_feast
feast = import_feast()
assert typeguard.typechecked is before
from feast.field import Field
from feast.types import Int64
print(feast.FeatureStore.__name__, hasattr(Field.__init__, "__wrapped__"))
Field(name=3, dtype=Int64)  # typeguard would refuse a name that is no text
assert import_feast() is feast
@typeguard.typechecked
def later(x: int): ...
try:
    later("text")
except typeguard.TypeCheckError:
    print("others are checked")
"""


def test_feast_is_not_rewritten_and_others_are(tmp_path):
    script = tmp_path / "script.py"  # typeguard reads the source of what it rewrites
    script.write_text(SCRIPT)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["FeatureStore False", "others are checked"]
