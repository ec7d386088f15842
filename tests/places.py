"""Where the tests find things of the checkout."""

from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
QUICKSTART = CHECKOUT / "examples" / "quickstart" / "environment.yml"
