"""The thread that follows the alias: swap, pin, last good; the same in both endpoints.

A model version comes one way: registry (which one) → fetch (a child brings it) → copies (verified, on disk) → here, where
it is built and handed to the scorer.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from threading import Event, Thread
from typing import Final, NamedTuple, NoReturn, Protocol

from fraudscale.config import ModelSettings
from fraudscale.errors import FraudscaleError
from fraudscale.metrics import ModelMetrics
from fraudscale.registry import copies
from fraudscale.registry.fetch import FETCH_SECONDS, fetch_in_child
from fraudscale.registry.mlflow import Locator, ModelUnknown
from fraudscale.scoring.model import VERSION_NUMBER, Model, Version, build
from fraudscale.telemetry.logs import Logger

MAX_BACK_OFF_SECONDS: Final = 300.0


class PinInvalid(FraudscaleError):
    """The pin names no model that can be found."""


class NoModelFound(FraudscaleError):
    """The registry gives no answer, and no local copy served before."""


class WantedVersion(NamedTuple):
    """What the pin, or the alias, asks for; None where it names no version."""

    version: str | None
    alias: str


class Locate(Protocol):
    """Asks the registry which version the alias, or the given number, stands for; may raise anything.

    `ModelUnknown` is an answer: there is no such version, or none that can be served. Any other error is none.
    """

    def __call__(self, version: str | None = None) -> Version: ...


class Fetch(Protocol):
    """Makes a local copy of a version, or raises; gives up once `stopping` is set."""

    def __call__(self, version: Version, stopping: Event) -> None: ...


class _BackOff:
    """When to try again what failed: after two polls, four, eight …, five minutes at most."""

    def __init__(self, poll_seconds: float) -> None:
        self._poll_seconds = poll_seconds
        self._failures: dict[str, tuple[int, float]] = {}
        self._asked: dict[str, str] = {}

    def about(self, source: str, asked: str) -> None:
        """Forget the failures of a source (their keys begin with it) once it asks for something else: news is tried at once."""
        if self._asked.get(source) != asked:
            self._asked[source] = asked
            self._failures = {k: f for k, f in self._failures.items() if not k.startswith(source)}

    def holds(self, key: str, now: float) -> bool:
        return key in self._failures and now < self._failures[key][1]

    def failed(self, key: str, now: float) -> float:
        """Note a failure; return the seconds to wait."""
        times = self._failures.get(key, (0, 0.0))[0] + 1
        seconds = min(MAX_BACK_OFF_SECONDS, self._poll_seconds * 2.0 ** min(times, 20))
        self._failures[key] = times, now + seconds
        return seconds

    def clear(self) -> None:
        self._failures.clear()


class ModelLoader:
    """Keeps the model that should serve serving: the pin's, else the registry's, else the last good copy.

    `install` is called from the loader's own thread, with a model that passed every check. Whatever fails, the model
    that serves stays; the failure is counted, logged, and tried again with growing pauses.
    """

    def __init__(
        self,
        settings: ModelSettings,
        metrics: ModelMetrics,
        install: Callable[[Model], None],
        log: Logger,
        *,
        locate: Locate,
        fetch: Fetch,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.wanted: WantedVersion | None = None
        """None until the pin or the registry was asked."""
        self._cache = settings.model_cache_dir
        self._alias = settings.model_alias
        self._kept_copies = settings.model_copies
        self._poll_seconds = settings.model_poll_seconds
        self._metrics = metrics
        self._install = install
        self._log = log
        self._locate = locate
        self._fetch = fetch
        self._clock = clock
        self._serving: Version | None = None
        self._asked_by_alias: WantedVersion | None = None
        """By the registry's last answer: a pin may go while it is down."""
        self._lost: str | None = None
        """Why the registry gave no answer; None once it did."""
        self._back_off = _BackOff(settings.model_poll_seconds)
        self._stopping = Event()
        self._thread = Thread(target=self._run, name="model-loader", daemon=True)

    def start(self) -> None:
        """Begin loading, and polling; returns at once."""
        self._thread.start()

    def stop(self, timeout: float = 5.0) -> None:
        """Stop polling, ending a fetch that runs; wait for the thread, `timeout` seconds at most."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def check(self) -> None:
        """Poll once: find out which model should serve, and load it unless it does."""
        pin = copies.read_pin(self._cache)
        self._back_off.about("pin", pin or "")
        if pin is not None:
            self._follow_pin(pin)
        # A pin that can't be loaded keeps what serves; only a process with nothing to serve looks further.
        if pin is None or self._serving is None:
            self._follow_registry(decides=pin is None)
        if self._serving is None:
            self._start_from_last_good()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self.check()
            except Exception:  # a thread that died would look like a registry that never changes
                self._log.exception("model_loader_failed")
            self._stopping.wait(self._poll_seconds)

    def _follow_pin(self, pin: str) -> None:
        serving = self._serving
        if serving and serving.alias == copies.PIN_ALIAS and pin in {serving.version, serving.digest}:
            self._want(serving.version, copies.PIN_ALIAS)  # the pin may have asked for another meanwhile
        else:
            self._attempt(f"pin {pin}", "pin", lambda: self._pinned(pin))

    def _pinned(self, pin: str) -> Version:
        for version in copies.known(self._cache):
            if pin in {version.version, version.digest}:
                self._want(version.version, copies.PIN_ALIAS)
                return version
        is_version = VERSION_NUMBER.fullmatch(pin) is not None
        self._want(pin if is_version else None, copies.PIN_ALIAS)
        if not is_version:
            raise PinInvalid(
                f'{self._cache / copies.PIN} says "{pin[:80]}": neither a version nor the digest of a local copy; '
                "write one of these, or remove the file"
            )
        return replace(self._ask(pin), alias=copies.PIN_ALIAS)

    def _follow_registry(self, *, decides: bool) -> None:
        """Load what the alias points to; where a pin decides, that is a way out for who has nothing to serve."""
        answer = self._answer_of_registry()
        if answer is not None:
            self._asked_by_alias = WantedVersion(answer.version, self._alias)
        if decides and self._asked_by_alias is not None:
            self._want(*self._asked_by_alias)
        if answer is None:
            return
        self._back_off.about("registry", str(answer))
        if isinstance(answer, ModelUnknown):
            self._attempt(f"registry {answer}", "registry", lambda: _refuse(answer))
        elif answer != self._serving:
            self._attempt_version(answer, "registry")

    def _answer_of_registry(self) -> Version | ModelUnknown | None:
        answer: Version | ModelUnknown
        try:
            answer = self._ask()
        except ModelUnknown as error:
            answer = error
        except Exception as error:  # whatever kept the registry from answering, what serves stays
            if self._lost != str(error):
                self._log.warning("registry_unavailable", error=str(error), serving=self._serving_version())
            self._lost = str(error)
            return None
        if self._lost is not None:
            self._log.info("registry_back", serving=self._serving_version(), wanted=answer.version)
        self._lost = None
        return answer

    def _ask(self, version: str | None = None) -> Version:
        up = self._metrics.registry_up.labels()
        try:
            found = self._locate(version)
        except ModelUnknown:
            up.value = 1
            raise
        except Exception:
            up.value = 0
            raise
        up.value = 1
        return found

    def _want(self, version: str | None, alias: str) -> None:
        self.wanted = WantedVersion(version, alias)
        series = [] if version is None else [(version, alias)]
        for labels in series:
            self._metrics.wanted.labels(*labels).value = 1
        self._metrics.wanted.retain(series)

    def _start_from_last_good(self) -> None:
        candidates = copies.last_good(self._cache)
        for version in candidates:
            if self._serving is None:
                self._attempt_version(version, "last_good", fetch=False)
        if self._lost is not None and not candidates:
            self._attempt("nothing", "last_good", self._nothing)

    def _nothing(self) -> Version:
        raise NoModelFound(
            f"the registry gives no answer and {self._cache} holds no model that served before; start the registry"
        )

    def _attempt_version(self, version: Version, source: str, *, fetch: bool = True) -> None:
        key = f"{source} {version.version} {version.digest}"
        self._attempt(key, source, lambda: version, fetch=fetch)

    def _attempt(self, key: str, source: str, find: Callable[[], Version], *, fetch: bool = True) -> None:
        if self._back_off.holds(key, self._clock()):
            return
        begin = time.perf_counter()
        version: Version | None = None
        try:
            version = find()
            model = self._load(version, fetch=fetch)
            self._install(model)
        except Exception as error:  # a bad artifact may raise anything; the model that serves must not suffer
            if not self._stopping.is_set():
                self._note_failure(key, source, version, error, time.perf_counter() - begin)
            return
        self._serving = version
        self._back_off.clear()
        self._note_success(model, source, time.perf_counter() - begin)
        self._remember(version)

    def _load(self, version: Version, *, fetch: bool) -> Model:
        try:
            manifest, files = copies.read_copy(self._cache, version.digest)
        except copies.CopyUnusable:
            if not fetch:
                raise
            self._fetch_once(version)
            manifest, files = copies.read_copy(self._cache, version.digest)
        return build(manifest, files, version=version.version, alias=version.alias)

    def _fetch_once(self, version: Version) -> None:
        """Fetch, unless another process does: then wait for its copy."""
        with copies.locked(self._cache, version.digest, 2 * FETCH_SECONDS, self._stopping):
            try:
                copies.read_copy(self._cache, version.digest)
            except copies.CopyUnusable:
                self._fetch(version, self._stopping)

    def _note_success(self, model: Model, source: str, seconds: float) -> None:
        self._metrics.loads.labels("success").value += 1
        self._metrics.load_duration.labels().observe(seconds)
        self._log.info(
            "model_loaded",
            version=model.version,
            alias=model.alias,
            digest=model.digest,
            source=source,
            seconds=round(seconds, 3),
            parity_rows=model.parity.rows,
            max_difference=model.parity.max_difference,
        )

    def _note_failure(
        self, key: str, source: str, version: Version | None, error: Exception, seconds: float
    ) -> None:
        self._metrics.loads.labels("failure").value += 1
        self._metrics.errors.labels("system").value += 1
        self._metrics.load_duration.labels().observe(seconds)
        self._log.error(
            "model_load_failed",
            version=version.version if version else getattr(error, "version", None),
            digest=version.digest if version else None,
            source=source,
            error=f"{type(error).__name__}: {error}",
            seconds=round(seconds, 3),
            retry_seconds=self._back_off.failed(key, self._clock()),
            serving=self._serving_version(),
        )

    def _remember(self, version: Version) -> None:
        try:
            copies.write_pointer(self._cache, version)
            copies.prune(self._cache, self._kept_copies)
        except OSError as error:
            self._log.warning(
                "model_pointer_not_written",
                error=f"{error}; free space in {self._cache} or make it writable, or a start without the registry "
                "may load an older model",
            )

    def _serving_version(self) -> str | None:
        return self._serving.version if self._serving else None


def _refuse(answer: ModelUnknown) -> NoReturn:
    raise answer


def default_loader(
    settings: ModelSettings, metrics: ModelMetrics, install: Callable[[Model], None], log: Logger
) -> ModelLoader:
    """The loader of a serving process: asks MLflow's REST API, fetches in a child process."""
    fetch = partial(fetch_in_child, settings)
    return ModelLoader(settings, metrics, install, log, locate=Locator(settings).locate, fetch=fetch)
