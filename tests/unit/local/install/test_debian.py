import subprocess
import sys
from pathlib import Path

import pytest

from fraudscale.local.install import debian
from fraudscale.local.install.debian import ALERTMANAGER, HAPROXY, PROGRAMS, Packages
from fraudscale.local.install.folder import MissingComponent


def test_what_is_on_path_is_used_and_nothing_downloaded(bare, tmp_path, downloads):
    for wanted in PROGRAMS:
        (tmp_path / wanted.names[-1]).touch(mode=0o755)
    lines = []
    paths = Packages(downloads(lines)).programs(PROGRAMS)
    assert paths[HAPROXY] == tmp_path / "haproxy"
    assert paths[ALERTMANAGER] == tmp_path / "prometheus-alertmanager"
    assert lines == []


def test_without_apt_all_that_is_missing_is_listed_at_once(bare, downloads):
    with pytest.raises(MissingComponent) as missing:
        Packages(downloads()).programs(PROGRAMS)
    assert "prometheus, promtool, alertmanager, amtool, node_exporter, haproxy" in str(missing.value)
    assert "brew install alertmanager haproxy node_exporter prometheus" in str(missing.value)


def test_new_packages_are_taken_from_apts_plan_and_upgrades_of_installed_ones_are_not(monkeypatch):
    plan = (
        "'http://deb.debian.org/debian/pool/l/liblua5.3-0_5.3.6-2_amd64.deb' liblua5.3-0_5.3.6-2_amd64.deb 122984 MD5Sum:60b9\n"
        "'http://deb.debian.org/debian/pool/g/libc6_2.36-9%2bdeb12u10_amd64.deb' libc6_2.36-9+deb12u10_amd64.deb 2758700 \n"
        "'http://deb.debian.org/debian/pool/h/haproxy_2.6.12-1_amd64.deb' haproxy_2.6.12-1_amd64.deb 2042596 \n"
    )
    monkeypatch.setattr(debian, "_installed", lambda package: package == "libc6")
    assert debian.packages_in(plan) == ["liblua5.3-0", "haproxy"]


def test_a_package_is_unpacked_with_what_the_system_lacks_and_started_once(apt, downloads):
    log = apt("haproxy")
    lines = []
    packages = Packages(downloads(lines))
    program = packages.programs([HAPROXY])[HAPROXY]
    tree = packages.folder("haproxy")
    assert program == tree / "usr/sbin/haproxy"
    libraries = str(tree / "usr/lib/x86_64-linux-gnu")
    assert packages.libraries("haproxy") == libraries
    assert program.with_name("haproxy.started").read_text().strip().endswith("/usr/lib/x86_64-linux-gnu")
    update, plan, download = log.read_text().splitlines()
    assert update.endswith("update -qq")
    assert plan.endswith("--no-install-recommends haproxy")
    assert set(download.split("-qq ")[1].split()) == {
        "haproxy",
        "liblua",
    }  # libc6 is installed: an upgrade is left out
    assert list(tree.glob("*.deb")) == []
    assert [line.partition(" MB")[0] for line in lines] == [
        "Debian package haproxy: downloading",
        "Debian package haproxy: 0.0",
    ]


def test_a_package_whose_program_does_not_start_is_not_put_in_place(apt, downloads):
    apt("haproxy", starts="echo libfoo.so is missing >&2; exit 127")
    packages = Packages(downloads())
    with pytest.raises(MissingComponent, match=r"`haproxy` failed: libfoo.so is missing; install it by hand"):
        packages.programs([HAPROXY])
    assert not packages.folder("haproxy").exists()


def test_libgomp_is_brought_where_the_system_lacks_it(apt, downloads, monkeypatch):
    apt("libgomp1")
    assert Packages(downloads()).libgomp() is None
    monkeypatch.setattr(debian, "has_libgomp", lambda: False)
    library = Packages(downloads()).libgomp()
    assert library.name == "libgomp.so.1"
    assert library.is_file()


def test_libgomp_without_apt_is_said_to_be_missing(bare, downloads, monkeypatch):
    monkeypatch.setattr(debian, "has_libgomp", lambda: False)
    with pytest.raises(MissingComponent, match=r"libgomp.so.1 is missing: install your system's package"):
        Packages(downloads()).libgomp()


def test_libgomp_is_a_matter_of_linux_and_of_the_linker(monkeypatch):
    def missing(name):
        raise OSError(name)

    monkeypatch.setattr(debian, "CDLL", missing)
    monkeypatch.setattr(sys, "platform", "linux")
    assert not debian.has_libgomp()
    monkeypatch.setattr(sys, "platform", "darwin")
    assert debian.has_libgomp()


def test_a_folder_of_packages_is_named_by_the_system_where_it_says_which_it_is(downloads, monkeypatch):
    monkeypatch.setattr(
        debian.platform, "freedesktop_os_release", lambda: {"ID": "debian", "VERSION_ID": "12"}
    )
    assert Packages(downloads()).folder("x").parent.name.startswith("packages-debian-12-")

    def unknown():
        raise OSError

    monkeypatch.setattr(debian.platform, "freedesktop_os_release", unknown)
    assert Packages(downloads()).folder("x").parent.name.startswith("packages-linux-0-")


@pytest.fixture
def templates(tmp_path):
    """A tree with what Debian's Alertmanager opens below /usr/share, and a program that reads it."""
    folder = tmp_path / "tree/usr/share" / debian.ALERTMANAGER_TEMPLATES
    folder.mkdir(parents=True)
    (folder / "default.tmpl").write_text("ours")
    program = tmp_path / "tree/usr/bin/prometheus-alertmanager"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\necho $$ $(cat /usr/share/{debian.ALERTMANAGER_TEMPLATES}/default.tmpl) "$@"\n'
    )
    program.chmod(0o755)
    return program


@pytest.mark.skipif(not debian.has_namespaces(), reason="this system allows no user namespaces")
def test_alertmanager_finds_its_templates_though_they_are_not_where_it_looks(templates):
    command = [*debian.own_share(templates), str(templates), "an argument"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        said = process.stdout.read()
    assert said == f"{process.pid} ours an argument\n"  # the same process: signals and the pid stay true


def test_a_program_that_brings_its_templates_or_is_installed_is_started_as_it_is(templates, monkeypatch):
    assert debian.own_share(Path("/opt/bin/alertmanager")) == ()
    monkeypatch.setattr(debian, "SHARE", templates.parents[1] / "share")
    assert debian.own_share(templates) == ()


def test_a_system_without_unshare_has_no_namespaces(bare):
    assert not debian.has_namespaces()
