"""Transactions to float32 rows: the one code path for training and for serving.

A row is computed by plain Python from one record, for a training set of a million rows and for one request alike;
there is no vectorised twin that could drift away from it.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from fraudscale.scoring.records import Transaction

FEATURES: Final[Mapping[str, str]] = {
    "amount": "the amount as sent",
    "merchant_category": "position of the category in the model's list; an unknown category takes that of `other`",
    "hour": "hour of day, 0–23",
    "day_of_week": "day of week, Monday = 0",
    "user_age": "age in years",
    "account_balance": "balance before the payment, may be negative",
    "log_amount": "ln(1 + amount)",
    "amount_over_balance": (
        "amount / balance, at most 100; 100 where the balance is zero or negative (any payment exceeds it), 0 for amount 0"
    ),
    "is_night": "1 from 0:00 to 5:59",
    "is_weekend": "1 on Saturday and Sunday",
    "hour_sin": "sin(2π·hour/24): 23:00 and 0:00 are neighbours",
    "hour_cos": "cos(2π·hour/24)",
    "day_sin": "sin(2π·day/7): Sunday and Monday are neighbours",
    "day_cos": "cos(2π·day/7)",
    "age_band": "0: under 18, 1: 18–24, 2: 25–34, 3: 35–49, 4: 50–64, 5: 65 and over",
    "amount_vs_usual": "ln(1 + amount) − ln(1 + the category's median amount in training)",
}
"""Name and meaning of each column, in order."""

MAX_RATIO: Final = 100.0
OTHER: Final = "other"
# Beyond it a float64 becomes an infinite float32.
_FLOAT32_MAX: Final = float(np.finfo(np.float32).max)

_HOUR: Final = tuple(
    (float(hour < 6), math.sin(2 * math.pi * hour / 24), math.cos(2 * math.pi * hour / 24))
    for hour in range(24)
)
_DAY: Final = tuple(
    (float(day >= 5), math.sin(2 * math.pi * day / 7), math.cos(2 * math.pi * day / 7)) for day in range(7)
)
_AGE_BAND: Final = tuple(float(sum(age >= start for start in (18, 25, 35, 50, 65))) for age in range(131))

Rows = npt.NDArray[np.float32]
"""Shape (n, len(FEATURES))."""


class Featurizer:
    """What features need to know from training: the categories in order, and the usual (median) amount of each."""

    def __init__(self, categories: Sequence[str], usual_amounts: Sequence[float]) -> None:
        """Pair each category with its usual amount.

        Raises:
            ValueError: lists of different lengths, or no category `other`.
        """
        if len(categories) != len(usual_amounts):
            raise ValueError(f"{len(categories)} categories, but {len(usual_amounts)} usual amounts")
        if OTHER not in categories:
            raise ValueError(f'the categories lack "{OTHER}", which stands for all unknown ones')
        self.categories = tuple(categories)
        self.usual_amounts = tuple(usual_amounts)
        self._code_and_log_usual = {
            name: (float(code), math.log1p(usual))
            for code, (name, usual) in enumerate(zip(categories, usual_amounts, strict=True))
        }
        self.knows = self._code_and_log_usual.__contains__
        """Whether a category is one of the model's."""

    def rows(self, transactions: Iterable[Transaction]) -> Rows:
        """Compute one float32 row a transaction, columns as in `FEATURES`."""
        table = self._code_and_log_usual
        other = table[OTHER]
        flat: list[float] = []
        extend, log1p = flat.extend, math.log1p
        for t in transactions:
            amount = min(t.amount, _FLOAT32_MAX)
            balance = t.account_balance
            if not -_FLOAT32_MAX < balance < _FLOAT32_MAX:
                balance = math.copysign(_FLOAT32_MAX, balance)
            code, log_usual = table.get(t.merchant_category, other)
            log_amount = log1p(amount)
            exceeds = MAX_RATIO if amount > 0 else 0.0
            ratio = amount / balance if amount < balance * MAX_RATIO else exceeds
            night, hour_sin, hour_cos = _HOUR[t.hour]
            weekend, day_sin, day_cos = _DAY[t.day_of_week]
            extend(
                (
                    amount,
                    code,
                    t.hour,
                    t.day_of_week,
                    t.user_age,
                    balance,
                    log_amount,
                    ratio,
                    night,
                    weekend,
                    hour_sin,
                    hour_cos,
                    day_sin,
                    day_cos,
                    _AGE_BAND[t.user_age],
                    log_amount - log_usual,
                )
            )
        return np.array(flat, dtype=np.float32).reshape(-1, len(FEATURES))


def usual_amounts(transactions: Sequence[Transaction], categories: Sequence[str]) -> tuple[float, ...]:
    """Median amount of each category; of all transactions where a category has none."""
    overall = float(np.median([t.amount for t in transactions])) if transactions else 0.0
    by_category: dict[str, list[float]] = {category: [] for category in categories}
    for t in transactions:
        by_category.get(t.merchant_category, by_category[OTHER]).append(t.amount)
    return tuple(float(np.median(amounts)) if amounts else overall for amounts in by_category.values())
