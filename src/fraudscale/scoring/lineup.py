"""Who scores, and that there may be nobody yet."""

from dataclasses import dataclass
from datetime import datetime

from fraudscale.errors import FraudscaleError
from fraudscale.scoring.model import Model


class NoModel(FraudscaleError):
    """No model was ever loaded; there is nothing to score with."""


@dataclass(frozen=True)
class Lineup:
    """Who scores, as one immutable value: swapping models is one assignment. A challenger and its share join here."""

    champion: Model
    loaded_at: datetime
