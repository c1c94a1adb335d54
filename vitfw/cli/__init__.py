"""The commands, one file each.

OpenMP threads wait for each other by spinning unless told otherwise before torch is loaded: where
two programs share the cores, both then run many times slower than half as fast.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
