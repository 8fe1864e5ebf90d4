"""The job file: two sites, a topology and rules, as TOML.

Each table of the file is an attrs class below. cattrs reads them and goes on after a mistake, so that all mistakes
are told at once, each with its place, its value and what would be right. An option says in its metadata how its value
is read (`reads`, which raises ValueError with what would be right) and, in words, what is expected (`right`).
"""

import difflib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import attrs

from bisync.core.patterns import Scope
from bisync.endpoint import EXAMPLE, Endpoint, Secret, read_url
