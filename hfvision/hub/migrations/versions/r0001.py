"""Tables of hfvision 0.4.0: what later revisions start from. A store of that release has them already."""

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Nothing: whoever has no tables yet gets the newest ones at once."""
