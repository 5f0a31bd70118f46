"""All labs by their names, which are those of their pages."""

from . import first, second

LABS = {**first.LABS, **second.LABS}
