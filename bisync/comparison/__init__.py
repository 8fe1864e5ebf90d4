"""Are keys the same at two sites? `keys` compares many keys, `pages` one large value, `elements` what was read."""

from bisync.comparison.keys import Difference, Kind, compare
from bisync.comparison.pages import Place

__all__ = ["Difference", "Kind", "Place", "compare"]
