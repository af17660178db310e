"""Model cards: the README.md of a model folder or of a family, from configs, records and what was measured.

    from hfvision.cards import check_card, write_folder_card

    write_folder_card("my-model", name="me/my-model")   # written, or refreshed: hand-written sections stay
    problems = check_card("my-model")                   # [] where the Hub will take it

`model_card` gives the text of one model, `family_cards` those of the families' published files.
"""

from hfvision.cards.check import check_card
from hfvision.cards.families import FamilyCard, family_cards, write_family_cards
from hfvision.cards.figures import MEASURED, ClassTable, Result
from hfvision.cards.folder import folder_card, row_card, write_folder_card
from hfvision.cards.model_card import model_card, write_card

__all__ = [
    "MEASURED",
    "ClassTable",
    "FamilyCard",
    "Result",
    "check_card",
    "family_cards",
    "folder_card",
    "model_card",
    "row_card",
    "write_card",
    "write_family_cards",
    "write_folder_card",
]
