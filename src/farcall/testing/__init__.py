"""What tests of programs on farcall need, and conformance suites for whoever writes a transport or an engine.

``assert_compiles(n)`` checks how often Numba compiles, anywhere in the cluster. The suites need pytest.

Subclass a suite under a name that pytest collects and say how to make what it tests; pytest runs the rest:

    from farcall.testing import TransportSuite

    class TestPigeons(TransportSuite):
        def connect(self):
            return pigeon_pair()

A test's docstring is the law that it checks.
"""

import pytest

pytest.register_assert_rewrite("farcall.testing.engine", "farcall.testing.transport")  # failures show values

from .compiles import assert_compiles as assert_compiles  # noqa: E402
from .engine import EngineSuite as EngineSuite  # noqa: E402
from .transport import ListenerSuite as ListenerSuite  # noqa: E402
from .transport import TransportSuite as TransportSuite  # noqa: E402
