"""Which indices of log lines are to be deleted."""

from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime, timedelta

from fraudscale.central_logs.store import IndexSize


def surplus(
    indices: Iterable[IndexSize], today: date, keep_days: int, keep_bytes: int
) -> Iterator[tuple[str, str]]:
    """Yield the indices to delete, oldest first, each with the reason; `keep_days` 0 keeps all, `keep_bytes` is of all together."""
    dated = sorted((day, one) for one in indices if (day := _day(one.name)) is not None)
    total = sum(one.bytes for _, one in dated)
    for day, one in dated if keep_days else ():
        if today - day > timedelta(days=keep_days):
            yield one.name, f"older than {keep_days} days"
        elif total > keep_bytes:
            yield one.name, f"all indices together are larger than {keep_bytes} bytes"
        else:
            return
        total -= one.bytes


def _day(index: str) -> date | None:
    try:
        return datetime.strptime(index.rpartition("-")[2], "%Y.%m.%d").replace(tzinfo=UTC).date()
    except ValueError:  # somebody's own, such as a reindexed copy
        return None
