import errno
import fcntl
import itertools
import os
import shutil
import threading

import pytest
import structlog
from prometheus_client import CollectorRegistry
from structlog.testing import LogCapture

from fraudscale import files, model_loader
from fraudscale.config import ModelSettings
from fraudscale.metrics import ModelMetrics
from fraudscale.model_loader import ModelLoader
from fraudscale.registry.copies import (
    FetchFailed,
    Pointer,
    known,
    prune,
    read_pointer,
    store,
    temporary_folder,
    write_pointer,
)
from fraudscale.registry.mlflow import ModelUnknown, NoChampion, RegistryUnavailable
from fraudscale.scoring.model import ModelRejected, Version


class Registry:
    """A registry in memory: published artifacts, an alias, and switches for what can go wrong."""

    def __init__(self, folder, cache, make_artifact):
        self.folder, self.cache, self.make_artifact = folder, cache, make_artifact
        self.versions, self.champion = {}, None
        self.error = self.fetch_error = None
        self.fetched = []

    def publish(self, **kwargs):
        number = str(len(self.versions) + 1)
        digest = self.make_artifact(self.folder / number, **({"bias": -float(number)} | kwargs))
        self.versions[number], self.champion = Version(number, "champion", digest), number
        return self.versions[number]

    def locate(self, version=None):
        if self.error:
            raise self.error
        return self.versions[version or self.champion]

    def fetch(self, version, stopping):
        self.fetched.append(version.version)
        if self.fetch_error:
            raise self.fetch_error
        self.cache.mkdir(exist_ok=True)
        folder = temporary_folder(self.cache)
        shutil.copytree(self.folder / version.version, folder / "artifact")
        store(self.cache, folder / "artifact", version)
        folder.rmdir()


class Replica:
    """A process: a loader on the shared folder, and what it installed, counted and logged."""

    def __init__(self, registry, **settings):
        self.installed, self.capture, self.metrics, self.now = [], LogCapture(), ModelMetrics(), 0.0
        log = structlog.wrap_logger(None, processors=[self.capture], wrapper_class=structlog.BoundLogger)
        settings = {"model_cache_dir": registry.cache, "model_poll_seconds": 3} | settings
        self.loader = ModelLoader(
            ModelSettings(**settings),
            self.metrics,
            self.installed.append,
            log,
            locate=registry.locate,
            fetch=registry.fetch,
            clock=lambda: self.now,
        )
        self.check = self.loader.check

    @property
    def serving(self):
        return self.installed[-1].version if self.installed else None

    def events(self, name):
        return [entry for entry in self.capture.entries if entry["event"] == name]

    def value(self, name, **labels):
        registry = CollectorRegistry()
        registry.register(self.metrics)
        return registry.get_sample_value(name, labels)

    @property
    def wanted(self):
        """What the metrics say, and the loader: one or no version with its alias."""
        found = [tuple(s.labels.values()) for s in self.metrics.wanted.collect().samples if s.value == 1]
        told = self.loader.wanted
        assert found == ([] if told is None or told.version is None else [tuple(told)])
        return found

    @property
    def failures(self):
        failed = self.value("ml_model_loads_total", result="failure")
        assert failed == self.value("ml_model_errors_total", error_type="system")
        return failed


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "models"


@pytest.fixture
def registry(tmp_path, cache, make_artifact):
    return Registry(tmp_path / "registry", cache, make_artifact)


@pytest.fixture
def replica(registry):
    return Replica(registry)


@pytest.fixture
def down():
    return ConnectionError("connection refused")


def damage(cache, version):
    (cache / version.digest / "model.onnx").write_bytes(b"half")


# What serves


def test_the_champion_is_fetched_verified_and_installed(registry, replica, cache):
    version = registry.publish()
    replica.check()
    (model,) = replica.installed
    assert (model.version, model.alias, model.digest) == ("1", "champion", version.digest)
    assert read_pointer(cache) == Pointer("1", "champion", version.digest, None)
    assert replica.value("ml_model_loads_total", result="success") == 1
    assert replica.value("ml_model_load_duration_seconds_count") == 1


def test_a_load_is_logged_with_what_it_found(registry, replica):
    version = registry.publish()
    replica.check()
    (event,) = replica.events("model_loaded")
    assert event.pop("seconds") < 10
    assert event.pop("max_difference") <= 1e-6
    assert event == {
        "event": "model_loaded",
        "log_level": "info",
        "version": "1",
        "alias": "champion",
        "digest": version.digest,
        "source": "registry",
        "parity_rows": 64,
    }


def test_a_poll_without_news_does_nothing(registry, replica):
    registry.publish()
    replica.check()
    replica.check()
    assert len(replica.installed) == len(replica.capture.entries) == 1


def test_a_new_version_replaces_the_old_one(registry, replica, cache):
    old = registry.publish()
    replica.check()
    new = registry.publish()
    replica.check()
    assert replica.serving == "2"
    assert read_pointer(cache) == Pointer("2", "champion", new.digest, old.digest)


def test_going_back_to_a_version_needs_no_download(registry, replica):
    registry.publish()
    replica.check()
    registry.publish()
    replica.check()
    registry.champion = "1"
    replica.check()
    assert replica.serving == "1"
    assert registry.fetched == ["1", "2"]


def test_the_same_artifact_under_a_new_number_serves_under_that_number(registry, replica):
    registry.publish(bias=-1.0)
    replica.check()
    registry.publish(bias=-1.0)
    replica.check()
    assert replica.serving == "2"
    assert registry.fetched == ["1"]


# Starting without the registry


def test_a_start_without_the_registry_serves_the_last_good_copy(registry, down):
    registry.publish()
    Replica(registry).check()
    registry.error = down
    replica = Replica(registry)
    replica.check()
    assert replica.serving == "1"
    assert replica.events("model_loaded")[0]["source"] == "last_good"
    assert replica.failures == 0


def test_a_damaged_last_good_copy_gives_way_to_the_one_before_it(registry, down, cache):
    first = Replica(registry)
    for _ in range(2):
        newest = registry.publish()
        first.check()
    damage(cache, newest)
    registry.error = down
    replica = Replica(registry)
    replica.check()
    assert replica.serving == "1"
    assert "damaged" in replica.events("model_load_failed")[0]["error"]


def test_a_start_with_a_champion_that_must_not_serve_falls_back_to_the_last_good_copy(registry):
    registry.publish()
    Replica(registry).check()
    registry.publish(golden_shift=0.01)
    replica = Replica(registry)
    replica.check()
    assert replica.serving == "1"
    assert replica.failures == 1


def test_a_start_with_nothing_at_all_counts_one_failure_and_keeps_polling(registry, replica, down):
    registry.error = down
    for _ in range(3):
        replica.check()
    assert replica.failures == 1
    assert "no model that served before" in replica.events("model_load_failed")[0]["error"]
    registry.error = None
    registry.publish()
    replica.check()
    assert replica.serving == "1"


@pytest.mark.parametrize("content", [b"", b"{", b"{}", b'{"version": "\xff"}', b"\x00" * 100])
def test_a_damaged_pointer_is_as_none(registry, down, cache, content):
    registry.publish()
    Replica(registry).check()
    (cache / "current.json").write_bytes(content)
    registry.error = down
    replica = Replica(registry)
    replica.check()
    assert replica.serving is None


# The registry comes and goes


def test_a_lost_registry_is_one_warning_and_one_info(registry, replica, down):
    registry.publish()
    replica.check()
    registry.error = down
    for _ in range(3):
        replica.check()
    registry.error = None
    replica.check()
    (lost,), (back,) = replica.events("registry_unavailable"), replica.events("registry_back")
    assert (lost["log_level"], lost["serving"], lost["error"]) == ("warning", "1", "connection refused")
    assert (back["log_level"], back["serving"]) == ("info", "1")
    assert replica.failures == 0


def test_each_reason_of_a_lost_registry_is_told_once_and_counted_as_no_answer(registry, replica):
    assert replica.value("ml_model_registry_up") is None
    registry.publish()
    replica.check()
    assert replica.value("ml_model_registry_up") == 1
    for reason in ("refused", "refused", "401: set a token", "401: set a token"):
        registry.error = RegistryUnavailable(reason)
        replica.check()
    assert [line["error"] for line in replica.events("registry_unavailable")] == [
        "refused",
        "401: set a token",
    ]
    assert replica.value("ml_model_registry_up") == 0
    assert replica.wanted == [("1", "champion")]


# The alias points to what can't be served


def no_digest(version="2"):
    error = ModelUnknown(f'version {version} of "fraud-detector" has no tag "digest"')
    error.version = version
    return error


def poll_for(replica, seconds):
    for _ in range(0, seconds, 3):
        replica.check()
        replica.now += 3


def test_an_alias_to_a_version_that_cannot_be_served_is_a_failed_load_for_as_long_as_it_lasts(
    registry, replica
):
    registry.publish()
    replica.check()
    registry.error = no_digest()
    poll_for(replica, 3600)
    assert replica.failures == 17
    told = replica.events("model_load_failed")
    assert len(told) == 17
    assert told[0] | {"seconds": 0} == {
        "event": "model_load_failed",
        "log_level": "error",
        "version": "2",
        "digest": None,
        "source": "registry",
        "error": 'ModelUnknown: version 2 of "fraud-detector" has no tag "digest"',
        "seconds": 0,
        "retry_seconds": 6.0,
        "serving": "1",
    }
    assert replica.events("registry_unavailable") == []
    assert replica.value("ml_model_registry_up") == 1
    assert replica.wanted == [("2", "champion")]
    assert replica.serving == "1"


def test_each_reason_is_told_as_itself_and_again_when_it_comes_back(registry, replica):
    registry.publish()
    replica.check()
    reasons = [no_digest(), NoChampion("no version has the alias"), no_digest(), no_digest("3")]
    for number, registry.error in enumerate(reasons, 1):
        replica.check()
        replica.check()
        assert replica.failures == number
    assert [
        (line["version"], line["error"].partition(":")[0]) for line in replica.events("model_load_failed")
    ] == [
        ("2", "ModelUnknown"),
        (None, "NoChampion"),
        ("2", "ModelUnknown"),
        ("3", "ModelUnknown"),
    ]


def test_an_alias_that_is_gone_wants_nothing(registry, replica):
    registry.publish()
    replica.check()
    registry.error = NoChampion("no version has the alias")
    replica.check()
    assert replica.wanted == []
    assert replica.loader.wanted == (None, "champion")


def test_an_alias_that_returns_to_what_serves_ends_it_and_the_next_time_is_news(registry, replica):
    registry.publish()
    replica.check()
    for number in (1, 2):
        registry.error = no_digest()
        replica.check()
        assert replica.failures == number
        registry.error = None
        replica.check()
        assert replica.wanted == [("1", "champion")]
    assert len(replica.installed) == 1


def test_a_version_that_was_rejected_is_tried_again_when_the_alias_comes_back_to_it(registry, replica):
    registry.publish()
    replica.check()
    registry.publish(golden_shift=0.01)
    replica.check()
    registry.champion = "1"
    replica.check()
    registry.champion = "2"
    replica.check()
    assert replica.failures == 2
    assert replica.wanted == [("2", "champion")]


def test_a_registry_that_comes_back_with_no_model_says_both(registry, replica, down):
    registry.error = down
    replica.check()
    registry.error = ModelUnknown("no such model")
    replica.check()
    (back,) = replica.events("registry_back")
    assert back["wanted"] is None
    assert [line["source"] for line in replica.events("model_load_failed")] == ["last_good", "registry"]


# Loads that fail


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (FetchFailed("fetch-model ended with code 1"), "ended with code 1"),
        (OSError(errno.ENOSPC, "No space left on device"), "No space left"),
        (ModelRejected("the engine differs"), "the engine differs"),
        (MemoryError("out of memory"), "out of memory"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_fetch_that_fails_leaves_the_old_model_serving(registry, replica, fault, message):
    registry.publish()
    replica.check()
    registry.publish()
    registry.fetch_error = fault
    replica.check()
    assert replica.serving == "1"
    assert replica.failures == 1
    (event,) = replica.events("model_load_failed")
    assert (event["version"], event["serving"], event["log_level"]) == ("2", "1", "error")
    assert message in event["error"]


def test_a_model_that_differs_from_training_is_never_installed_nor_kept(registry, replica, cache):
    bad = registry.publish(golden_shift=0.01)
    replica.check()
    assert replica.installed == []
    assert not (cache / bad.digest).exists()
    assert read_pointer(cache) is None
    assert "differs from the trained model" in replica.events("model_load_failed")[0]["error"]


def test_an_install_that_raises_is_a_failed_load(registry, replica, cache):
    registry.publish()
    replica.loader._install = lambda model: 1 / 0
    replica.check()
    assert replica.failures == 1
    assert read_pointer(cache) is None


def test_a_failed_load_is_tried_again_with_growing_pauses_up_to_five_minutes(registry, replica):
    registry.publish()
    registry.fetch_error = FetchFailed("no")
    tried_at = []
    for replica.now in range(0, 1500, 3):
        before = len(registry.fetched)
        replica.check()
        tried_at += [replica.now] * (len(registry.fetched) - before)
    pauses = [b - a for a, b in itertools.pairwise(tried_at)]
    assert pauses == [6, 12, 24, 48, 96, 192, 300, 300, 300]


def test_a_rejected_version_does_not_delay_the_next_one(registry, replica):
    registry.publish(golden_shift=0.01)
    replica.check()
    registry.publish()
    replica.check()
    assert replica.serving == "2"


def test_a_load_that_succeeds_forgets_what_failed_before(registry, replica):
    registry.publish()
    registry.fetch_error = FetchFailed("no")
    replica.check()
    registry.fetch_error = None
    registry.publish()
    replica.check()
    registry.champion = "1"
    replica.check()
    assert replica.serving == "1"


def test_a_damaged_copy_is_replaced_from_the_registry(registry, cache):
    version = registry.publish()
    Replica(registry).check()
    damage(cache, version)
    replica = Replica(registry)
    replica.check()
    assert replica.serving == "1"
    assert registry.fetched == ["1", "1"]
    assert not [path for path in cache.iterdir() if path.name.startswith(".")]


def test_a_half_written_copy_is_no_copy(registry, replica, cache):
    version = registry.publish()
    (cache / version.digest).mkdir(parents=True)
    replica.check()
    assert replica.serving == "1"


def test_a_folder_that_cannot_be_made_is_a_logged_failure(registry, replica, cache):
    registry.publish()
    cache.write_text("a file where the folder should be")
    replica.check()
    assert replica.failures == 1
    assert "FileExistsError" in replica.events("model_load_failed")[0]["error"]


def test_a_pointer_that_cannot_be_written_is_a_warning_and_the_model_serves(registry, replica, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    registry.publish()
    monkeypatch.setattr(files, "replace", full)
    replica.check()
    assert replica.serving == "1"
    (event,) = replica.events("model_pointer_not_written")
    assert "No space left" in event["error"]


# Pins


def serve_two(registry, replica):
    """Publish and serve two versions; the second is the champion."""
    for _ in range(2):
        registry.publish()
        replica.check()


@pytest.mark.parametrize("pinned_by", ["version", "digest"])
def test_a_pin_overrides_the_alias_and_its_removal_returns_to_it(registry, replica, cache, down, pinned_by):
    serve_two(registry, replica)
    (cache / "pin").write_text(f" {getattr(registry.versions['1'], pinned_by)}\n")
    registry.error = down
    replica.check()
    assert (replica.serving, replica.installed[-1].alias) == ("1", "pin")
    assert replica.events("model_loaded")[-1]["source"] == "pin"
    registry.error = None
    replica.check()
    assert len(replica.installed) == 3
    (cache / "pin").unlink()
    replica.check()
    assert (replica.serving, replica.installed[-1].alias) == ("2", "champion")


def test_a_pinned_version_without_a_local_copy_comes_from_the_registry(registry, replica, cache):
    registry.publish()
    registry.publish()
    cache.mkdir()
    (cache / "pin").write_text("1")
    replica.check()
    assert replica.serving == "1"
    assert registry.fetched == ["1"]


def test_a_pin_is_what_is_wanted_even_if_only_the_registry_has_something_to_serve(registry, replica, cache):
    registry.publish()
    cache.mkdir()
    (cache / "pin").write_text("99")
    replica.check()
    assert (replica.serving, replica.wanted) == ("1", [("99", "pin")])
    (cache / "pin").write_text("nonsense")
    replica.check()
    assert (replica.wanted, replica.loader.wanted) == ([], (None, "pin"))
    (cache / "pin").write_text("1")
    replica.check()
    assert (replica.serving, replica.wanted) == ("1", [("1", "pin")])
    (cache / "pin").unlink()
    replica.check()
    assert replica.wanted == [("1", "champion")]


def test_without_the_pin_the_registrys_last_answer_is_wanted_even_while_it_is_down(
    registry, replica, cache, down
):
    serve_two(registry, replica)
    (cache / "pin").write_text("1")
    registry.error = down
    replica.check()
    (cache / "pin").unlink()
    replica.check()
    assert (replica.serving, replica.wanted) == ("1", [("2", "champion")])


def test_a_pin_that_is_written_again_is_tried_at_once(registry, replica, cache):
    serve_two(registry, replica)
    for _ in range(2):
        (cache / "pin").write_text("99")
        replica.check()
        (cache / "pin").unlink()
        replica.check()
    assert replica.failures == 2


def test_a_pin_that_returns_to_what_serves_is_what_is_wanted(registry, replica, cache):
    serve_two(registry, replica)
    for pin, serving in (("1", "1"), ("99", "1"), ("1", "1")):
        (cache / "pin").write_text(pin)
        replica.check()
        assert (replica.serving, replica.wanted) == (serving, [(pin, "pin")])


@pytest.mark.parametrize("pin", ["f" * 64, "latest", "99", "\xff"])
def test_a_pin_that_names_nothing_is_counted_and_the_current_model_stays(registry, replica, cache, pin):
    serve_two(registry, replica)
    (cache / "pin").write_text(pin, encoding="latin-1")
    registry.champion = "1"
    replica.check()
    replica.check()
    assert replica.serving == "2"
    assert replica.failures == 1


def test_a_start_with_a_pin_that_names_nothing_serves_the_champion(registry, replica, cache):
    registry.publish()
    cache.mkdir()
    (cache / "pin").write_text("latest")
    replica.check()
    assert replica.serving == "1"
    assert 'says "latest"' in replica.events("model_load_failed")[0]["error"]


# Pruning


def test_old_copies_go_but_never_the_current_the_previous_or_the_pinned(registry, cache):
    for _ in range(6):
        version = registry.publish()
        registry.fetch(version, None)
        os.utime(cache / version.digest, (0, int(version.version)))
    write_pointer(cache, registry.versions["2"])
    write_pointer(cache, registry.versions["1"])
    (cache / "pin").write_text("3")
    assert prune(cache, 2) == [registry.versions["4"].digest]
    assert sorted(version.version for version in known(cache)) == ["1", "2", "3", "5", "6"]


def test_serving_many_versions_keeps_few_copies(registry, cache):
    replica = Replica(registry, model_copies=2)
    for _ in range(5):
        registry.publish()
        replica.check()
    assert len(known(cache)) == 2
    assert replica.serving == "5"


# Several processes, one folder


def test_replicas_that_share_a_folder_fetch_once(registry):
    registry.publish()
    replicas = [Replica(registry) for _ in range(4)]
    threads = [threading.Thread(target=replica.check) for replica in replicas]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert [replica.serving for replica in replicas] == ["1"] * 4
    assert registry.fetched == ["1"]


def test_a_fetch_by_another_process_that_never_ends_is_a_failure_in_the_end(
    registry, replica, cache, monkeypatch
):
    version = registry.publish()
    cache.mkdir()
    monkeypatch.setattr(model_loader, "FETCH_SECONDS", 0)
    with (cache / f"{version.digest}.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        replica.check()
    assert replica.failures == 1
    assert "another process still holds" in replica.events("model_load_failed")[0]["error"]


# The thread


def test_start_returns_at_once_and_the_thread_loads(registry, replica):
    installed = threading.Event()
    replica.loader._install = lambda model: installed.set()
    registry.publish()
    replica.loader.start()
    assert installed.wait(30)
    replica.loader.stop()
    assert not replica.loader._thread.is_alive()


def test_the_thread_survives_an_exception_nobody_foresaw(registry, replica):
    survived = threading.Event()
    answers = iter([RuntimeError("unforeseen")])

    def check():
        for error in answers:
            raise error
        survived.set()

    replica.loader._poll_seconds = 0.01
    replica.loader.check = check
    replica.loader.start()
    assert survived.wait(30)
    replica.loader.stop()
    assert replica.events("model_loader_failed")[0]["log_level"] == "error"


def test_stopping_ends_a_fetch_and_counts_no_failure(registry, replica):
    fetching = threading.Event()

    def fetch(version, stopping):
        fetching.set()
        assert stopping.wait(30)
        raise FetchFailed("the process stops")

    registry.publish()
    replica.loader._fetch = fetch
    replica.loader.start()
    assert fetching.wait(30)
    replica.loader.stop()
    assert not replica.loader._thread.is_alive()
    assert replica.failures == 0


def test_stopping_what_never_started_is_nothing(replica):
    replica.loader.stop()
