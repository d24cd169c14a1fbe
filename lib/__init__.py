"""Blemish: labelled defects from a handful of examples.

Importing the package exits with a clear message if the virtual environment is not active, and sets a variable that
torch's OpenMP runtime reads when it is loaded: without a limit on its busy waiting, a training step on a loaded
two-core machine takes up to twenty times as long. A value that the user has set is kept.
"""

import gc
import os
import sys
import time
from importlib.util import find_spec

STARTED = time.monotonic()  # before the slow imports, which are part of a stage's duration
if find_spec("filelock") is None:  # a package of requirements.txt that every stage needs
    sys.exit(f"The packages of requirements.txt are not in {sys.prefix}: say `source .venv/bin/activate` first")
gc.set_threshold(10_000)  # with Python's own 700 an eighth of the time of importing diffusers goes into collecting
os.environ.setdefault("GOMP_SPINCOUNT", "3000")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # silences "requires torchvision, falling back to Pil"
