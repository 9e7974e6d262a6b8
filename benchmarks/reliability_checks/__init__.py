"""The checks of benchmarks/reliability.py: each takes a Setting and returns a plain record.

They share their functions and kills with tests/batch, which is put on the path here.
"""

import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(_ROOT), str(_ROOT / "tests" / "batch")]
