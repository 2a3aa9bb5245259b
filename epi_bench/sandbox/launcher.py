"""The program with which a sandbox starts; run by its path, never imported by the package.

Short, because it is compiled at each start: the rest is in :mod:`epi_bench.sandbox.processes`.
"""

import os
import sys

# Let epi_bench.sandbox be found, without what its packages import for other uses.
_sandbox = os.path.dirname(os.path.abspath(__file__))
for _name, _folder in (("epi_bench", os.path.dirname(_sandbox)), ("epi_bench.sandbox", _sandbox)):
    sys.modules[_name] = type(sys)(_name)
    sys.modules[_name].__path__ = [_folder]

from epi_bench.sandbox.processes import start  # noqa: E402  (found only now)

start(sys.argv[1:])
