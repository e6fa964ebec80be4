"""The model card: what a bundle is, how it was made and how far it can be trusted, on one self-contained page.

All that is on it was computed by the service's own engine from the exported graphs.
"""

from training.card.card import write_card
from training.card.inputs import CardInputs

__all__ = ["CardInputs", "write_card"]
