"""The generator of transactions with labels: for training, for sample traffic, and for tests.

Account holders persist: each has an age, an income, savings and one of a few styles of
living (`STYLES`), which say when and on what they spend. Every payment is drawn from its holder's habits; a small share
is then taken over by one of the `PATTERNS` of fraud, which choose victims, categories and amounts of their own. Some
fraud (`quiet`) keeps the habits of its victim and can't be told by anybody; some honest payments look like fraud. The
truth about a payment becomes known late (`labelled_at`). `Drift` changes the world on request.

Everything is a pure function of the seed and of the instants asked for: no clock is read. Income arrives every four
weeks, so that a period moved by whole multiples of four weeks holds the same payments.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final, Literal

import msgspec
import numpy as np

from fraudscale.arrays import Bools, Floats, Ints
from fraudscale.scoring.records import CATEGORIES, Transaction

FOUR_WEEKS: Final = timedelta(weeks=4)
LABELS_FINAL_AFTER: Final = timedelta(days=28)
"""A payment that nobody has disputed by then counts as legitimate; disputes of fraud arrive earlier."""

HOLDERS: Final = 20_000
_CHUNK: Final = 20_000  # payments drawn at once: enough to amortise numpy's calls, small enough to stream
_MS_PER_DAY: Final = 86_400_000


class LabelledTransaction(msgspec.Struct, frozen=True, gc=False):
    """A payment, the truth about it, when it was made, and when the truth became known (both UTC)."""

    transaction: Transaction
    is_fraud: bool
    at: datetime
    labelled_at: datetime


class Drift(StrEnum):
    """What can change in the world after a model was trained."""

    AMOUNT_INFLATION = "amount-inflation"
    """Every amount that follows habits grows by 40 %; balances stay."""
    CATEGORY_SHIFT = "category-shift"
    """Three payments in ten move to crypto, gambling and entertainment."""
    NIGHT_SHIFT = "night-shift"
    """Three payments in ten are made eight hours later by the holder's clock."""
    YOUNGER_HOLDERS = "younger-holders"
    """Four payments in ten are made by holders under 25."""
    NEW_FRAUD = "new-fraud"
    """A pattern of fraud appears that no earlier data holds: `utility_mill`. The features hardly move, their meaning does."""


@dataclass(frozen=True)
class Category:
    """Amounts of one category: log-normal, in units of the account's currency."""

    median: float
    spread: float
    """Standard deviation of ln(amount)."""


AMOUNTS: Final[Mapping[str, Category]] = {
    "grocery": Category(38, 0.65),
    "restaurant": Category(27, 0.6),
    "clothing": Category(55, 0.75),
    "electronics": Category(140, 1.0),
    "entertainment": Category(22, 0.7),
    "travel": Category(210, 0.95),
    "utilities": Category(75, 0.5),
    "gambling": Category(40, 1.1),
    "cash_advance": Category(120, 0.8),
    "crypto": Category(150, 1.3),
    "other": Category(30, 1.1),
}


@dataclass(frozen=True)
class Style:
    """A way of living: how many of the holders, of what age, active when, spending on what."""

    share: float
    ages: tuple[int, int]
    peak: float
    """Hour of day around which most payments lie."""
    width: float
    """Standard deviation around the peak, hours."""
    weekend: float
    """Activity on Saturday and Sunday relative to other days."""
    weights: tuple[float, ...]
    """Relative frequency of each category, in the order of `CATEGORIES`."""


# The weights' columns:                   gro res clo ele ent tra uti gam cas cry oth
STYLES: Final[Mapping[str, Style]] = {
    "family": Style(0.40, (28, 58), 14.5, 3.8, 1.3, (34, 14, 9, 4, 6, 4, 11, 1, 2, 0.5, 14)),
    "student": Style(0.20, (16, 27), 17.0, 4.8, 1.4, (22, 24, 10, 6, 18, 4, 3, 2, 2, 2, 9)),
    "retired": Style(0.17, (62, 93), 11.5, 3.0, 0.7, (40, 10, 6, 2, 5, 6, 14, 1, 4, 0.2, 12)),
    "traveller": Style(0.12, (25, 70), 13.0, 5.0, 0.9, (14, 26, 8, 6, 8, 20, 5, 1, 4, 1, 7)),
    "night_owl": Style(0.11, (18, 45), 23.5, 4.0, 1.2, (14, 16, 4, 9, 20, 3, 4, 12, 6, 7, 5)),
}


@dataclass(frozen=True)
class Pattern:
    """One kind of fraud. What is None stays as the victim's habits have it."""

    rate: float
    """Share of payments between `hours` that it takes over."""
    elsewhere: float
    """Share of payments at other hours."""
    hours: frozenset[int]
    ages: tuple[int, int] | None
    """Of nine victims in ten; the others are anybody."""
    categories: tuple[str, ...] | None
    """A category named twice is twice as frequent."""
    basis: Literal["balance", "usual", "units"] | None
    low: float = 0.0
    high: float = 0.0
    """The amount is the basis times a number between the two, log-uniform; the basis is the victim's balance, the
    category's median, or 1."""


_NIGHT: Final = frozenset(range(6))
_ALWAYS: Final = frozenset(range(24))
PATTERNS: Final[Mapping[str, Pattern]] = {
    "night_takeover": Pattern(
        0.042, 0.0004, _NIGHT, (16, 27), ("crypto", "crypto", "cash_advance", "gambling", "electronics"),
        "balance", 0.3, 1.05,
    ),
    "stolen_card": Pattern(
        0.0022, 0, _ALWAYS, None, ("electronics", "electronics", "clothing", "travel"), "usual", 2.5, 14
    ),
    "elder_scam": Pattern(
        0.0022, 0, frozenset(range(9, 17)), (66, 93), ("cash_advance", "cash_advance", "crypto", "other"),
        "balance", 0.2, 0.9,
    ),
    "card_testing": Pattern(
        0.001, 0, _ALWAYS, None, ("entertainment", "other", "gambling"), "units", 0.5, 3
    ),
    "quiet": Pattern(0.0011, 0, _ALWAYS, None, None, None),
}  # fmt: skip
NEW_PATTERNS: Final[Mapping[str, Pattern]] = {
    "utility_mill": Pattern(
        0.012, 0, frozenset(range(10, 20)), (35, 60), ("utilities", "grocery"), "usual", 2.5, 7
    ),
}
"""Kinds of fraud that exist only under `Drift.NEW_FRAUD`."""

# Honest payments that take a large share of the balance: a car, a deposit, a whim.
_LARGE_SHARE: Final = 0.006
_WEEKDAY: Final = np.array([0.95, 0.95, 0.97, 1.0, 1.13, 1.0, 1.0])


class SyntheticTransactions:
    """Account holders, their payments, and those who steal from them."""

    def __init__(self, seed: int, *, drifts: Collection[Drift] = ()) -> None:
        """Create the holders; the same seed gives the same ones, whatever drifts.

        Drifts are in force all the time; for a change in mid-stream use a second object of the same seed.
        """
        self._random = np.random.default_rng(seed)
        self._drifts = frozenset(drifts)
        self._patterns = [*PATTERNS.values(), *(NEW_PATTERNS.values() if Drift.NEW_FRAUD in drifts else ())]
        self._run = int(self._random.integers(1 << 32))
        self._sequence = 0
        self._create_holders()
        self._activity = _activity()
        self._intensity = self._activity.sum(axis=2)
        self._style_at = _cumulative(self._activity)
        self._category_of = _cumulative(np.array([style.weights for style in STYLES.values()]))
        self._victims = [self._aged(*p.ages) if p.ages else None for p in self._patterns]
        self._takeover_at = np.cumsum(_takeovers(self._patterns), axis=1)
        self._young = self._aged(0, 24)

    def during(self, start: datetime, end: datetime, rate: float) -> Iterator[LabelledTransaction]:
        """Generate the payments of a period, in order of time, with the cycles of day and week.

        The instants have a time zone, `end` is not included; `rate` is per second, averaged over whole weeks.
        """
        peak = float(self._intensity.max())
        step = max(1, int(_CHUNK / rate * 1e3))
        first, last = _to_ms(start), _to_ms(end)
        for begin in range(first, last, step):
            width = min(step, last - begin)
            # Thinning (Lewis & Shedler 1979): draw at the highest intensity, keep in proportion to the current one.
            count = self._random.poisson(rate * peak * width / 1e3)
            ms = begin + np.sort(self._random.integers(0, width, count))
            hour, day = _clock(ms)
            kept = self._random.random(count) * peak < self._intensity[day, hour]
            yield from self._draw(ms[kept])

    def at(self, instant: datetime, count: int = 1) -> list[LabelledTransaction]:
        """Generate payments made at this instant: sample traffic asks for those that are due, as long as it likes."""
        return self._draw(np.full(count, _to_ms(instant), dtype=np.int64))

    def _create_holders(self) -> None:
        random, styles = self._random, list(STYLES.values())
        counts = [round(style.share * HOLDERS) for style in styles]
        self._last_of_style = np.cumsum(counts, dtype=np.int64)
        self._first_of_style = self._last_of_style - counts
        total = sum(counts)
        self._age = np.concatenate(
            [random.integers(s.ages[0], s.ages[1] + 1, n) for s, n in zip(styles, counts, strict=True)]
        )
        earning = np.interp(self._age, [16, 22, 35, 50, 64, 90], [500, 1300, 2600, 3000, 2200, 1700])
        self._income = earning * random.lognormal(0, 0.45, total)
        # Savings in months of income; one holder in seven owes a little, and is in the red before the next payday.
        self._savings = random.lognormal(-0.2, 1.2, total) - 0.22
        self._payday = random.random(total)
        self._generosity = (self._income / 2000) ** 0.5 * random.lognormal(0, 0.25, total)

    def _aged(self, youngest: int, oldest: int) -> Ints:
        return np.flatnonzero((self._age >= youngest) & (self._age <= oldest))

    def _draw(self, ms: Ints) -> list[LabelledTransaction]:
        hour, day = self._local_clock(ms)
        holder, category = self._habits(hour, day)
        taken = self._taken_over(hour)
        for pattern, victims, rows in zip(self._patterns, self._victims, taken, strict=True):
            self._choose_victims(pattern, victims, rows, holder, category)
        balance = self._balance(holder, ms)
        amount = self._amounts(holder, category, balance)
        for pattern, rows in zip(self._patterns, taken, strict=True):
            self._choose_amounts(pattern, rows, amount, category, balance)
        is_fraud = np.zeros(len(ms), dtype=bool)
        is_fraud[np.concatenate(taken)] = True
        delay = self._label_delay(is_fraud)
        return self._records(ms, delay, is_fraud, holder, category, hour, day, amount, balance)

    def _local_clock(self, ms: Ints) -> tuple[Ints, Ints]:
        if Drift.NIGHT_SHIFT in self._drifts:
            ms = ms + self._some(len(ms), 0.3) * (_MS_PER_DAY // 3)
        return _clock(ms)

    def _habits(self, hour: Ints, day: Ints) -> tuple[Ints, Ints]:
        style = self._pick(self._style_at[day, hour])
        holder = self._random.integers(self._first_of_style[style], self._last_of_style[style])
        category = self._pick(self._category_of[style])
        if Drift.YOUNGER_HOLDERS in self._drifts:
            younger = self._some(len(hour), 0.4)
            holder[younger] = self._random.choice(self._young, int(younger.sum()))
        if Drift.CATEGORY_SHIFT in self._drifts:
            moved = self._some(len(hour), 0.3)
            category[moved] = self._random.choice(
                _codes(("crypto", "gambling", "entertainment")), int(moved.sum())
            )
        return holder, category

    def _taken_over(self, hour: Ints) -> list[Ints]:
        """Choose the rows of each pattern; no row belongs to two."""
        edges = self._takeover_at[hour]
        chosen = (self._random.random(len(hour))[:, None] >= edges).sum(axis=1)
        return [np.flatnonzero(chosen == index) for index in range(len(self._patterns))]

    def _choose_victims(
        self, pattern: Pattern, victims: Ints | None, rows: Ints, holder: Ints, category: Ints
    ) -> None:
        if victims is not None:
            preferred = rows[self._some(len(rows), 0.9)]
            holder[preferred] = self._random.choice(victims, len(preferred))
        if pattern.categories is not None:
            category[rows] = self._random.choice(_codes(pattern.categories), len(rows))

    def _balance(self, holder: Ints, ms: Ints) -> Floats:
        month = ms / (28 * _MS_PER_DAY) + self._payday[holder]
        left = 1 - month % 1
        noise = self._random.normal(1, 0.08, len(ms))
        return np.asarray(np.round(self._income[holder] * (self._savings[holder] + left) * noise, 2))

    def _amounts(self, holder: Ints, category: Ints, balance: Floats) -> Floats:
        n = len(holder)
        amount = _MEDIAN[category] * self._random.lognormal(0, _SPREAD[category]) * self._generosity[holder]
        if Drift.AMOUNT_INFLATION in self._drifts:
            amount *= 1.4
        large = self._some(n, _LARGE_SHARE) & (balance > 0)
        amount[large] = balance[large] * self._random.uniform(0.25, 1, int(large.sum()))
        return np.asarray(amount)

    def _choose_amounts(
        self, pattern: Pattern, rows: Ints, amount: Floats, category: Ints, balance: Floats
    ) -> None:
        if pattern.basis is None:
            return
        factor = np.exp(self._random.uniform(np.log(pattern.low), np.log(pattern.high), len(rows)))
        # From an account in the red a thief takes what the credit line gives.
        basis = {
            "balance": np.maximum(balance[rows], 200),
            "usual": _MEDIAN[category[rows]],
            "units": np.ones(len(rows)),
        }[pattern.basis]
        amount[rows] = factor * basis

    def _label_delay(self, is_fraud: Bools) -> Ints:
        """Milliseconds until the truth is known: disputes take days to weeks, silence is final after four weeks."""
        final = LABELS_FINAL_AFTER / timedelta(milliseconds=1)
        disputed = self._random.lognormal(np.log(9 * _MS_PER_DAY), 0.6, len(is_fraud))
        return np.where(is_fraud, np.clip(disputed, _MS_PER_DAY, final), final).astype(np.int64)

    def _records(
        self,
        ms: Ints,
        delay: Ints,
        is_fraud: Bools,
        holder: Ints,
        category: Ints,
        hour: Ints,
        day: Ints,
        amount: Floats,
        balance: Floats,
    ) -> list[LabelledTransaction]:
        first = self._sequence
        self._sequence += len(ms)
        columns = (
            range(first, self._sequence),
            ms.tolist(),
            (ms + delay).tolist(),
            is_fraud.tolist(),
            np.round(amount, 2).tolist(),
            category.tolist(),
            hour.tolist(),
            day.tolist(),
            self._age[holder].tolist(),
            balance.tolist(),
        )
        # The instant makes the id unique among runs of one seed, the run among seeds, the number within a run.
        run, utc, from_timestamp = f"{self._run:08x}", UTC, datetime.fromtimestamp
        return [
            LabelledTransaction(
                Transaction(f"tx-{at:011x}-{run}-{n:x}", paid, CATEGORIES[code], h, d, age, left),
                fraud,
                from_timestamp(at / 1e3, utc),
                from_timestamp(known / 1e3, utc),
            )
            for n, at, known, fraud, paid, code, h, d, age, left in zip(*columns, strict=True)
        ]

    def _some(self, n: int, share: float) -> Bools:
        return self._random.random(n) < share

    def _pick(self, cumulative: Floats) -> Ints:
        """Choose a column of each row of cumulative probabilities, shape (n, k) → (n,)."""
        return np.asarray((self._random.random(len(cumulative))[:, None] >= cumulative[:, :-1]).sum(axis=1))


_MEDIAN: Final = np.array([AMOUNTS[name].median for name in CATEGORIES])
_SPREAD: Final = np.array([AMOUNTS[name].spread for name in CATEGORIES])


def _codes(names: Sequence[str]) -> Ints:
    return np.array([CATEGORIES.index(name) for name in names])


def _cumulative(weights: Floats) -> Floats:
    sums = np.cumsum(weights, axis=-1)
    return np.asarray(sums / sums[..., -1:])


def _activity() -> Floats:
    """Payments of each style at each hour of each day, shape (7, 24, styles); their sum has mean 1."""
    hours = np.arange(24)
    columns = []
    for style in STYLES.values():
        distance = np.abs(hours - style.peak)
        distance = np.minimum(distance, 24 - distance)
        by_hour = np.exp(-0.5 * (distance / style.width) ** 2) + 0.015
        weekend = np.where(np.arange(7) >= 5, style.weekend, 1.0)
        columns.append(style.share * (weekend * _WEEKDAY)[:, None] * (by_hour / by_hour.mean()))
    activity = np.stack(columns, axis=-1)
    return np.asarray(activity / activity.sum(axis=2).mean())


def _takeovers(patterns: Sequence[Pattern]) -> Floats:
    """Share of payments that each pattern takes over at each hour, shape (24, patterns)."""
    return np.array([[p.rate if hour in p.hours else p.elsewhere for p in patterns] for hour in range(24)])


def _to_ms(instant: datetime) -> int:
    return round(instant.timestamp() * 1e3)


def _clock(ms: Ints) -> tuple[Ints, Ints]:
    """Hour of day and day of week (Monday = 0); the epoch began on a Thursday."""
    return ms // 3_600_000 % 24, (ms // _MS_PER_DAY + 3) % 7
