"""The commands, one file each.

OpenMP threads wait for each other by spinning, unless told otherwise before torch is loaded. Where
two programs share the cores, that costs each of them far more than half its speed.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
