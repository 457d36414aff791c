from configparser import ConfigParser
from dataclasses import replace
from pathlib import Path
from string import Template

import pytest
import yaml
from blueprints import named

from fraudscale.local.components import assembly
from fraudscale.local.install.download import find_grafana


@pytest.fixture
def fake_grafana(tmp_path, monkeypatch):
    """A program of that name on PATH, with the files that tell where it is at home."""
    program = tmp_path / "opt/bin/grafana"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    (tmp_path / "opt/share/grafana/conf").mkdir(parents=True)
    (tmp_path / "opt/share/grafana/conf/defaults.ini").touch()
    monkeypatch.setenv("PATH", str(program.parent))
    return program


def test_a_grafana_on_path_is_one_more_component_read_only_and_on_this_machine(blueprint, fake_grafana):
    b = blueprint()
    b = replace(b, tools=replace(b.tools, grafana=find_grafana()))
    component = named(b)["grafana"]
    assert component.command == (
        str(fake_grafana),
        "server",
        f"--homepath={fake_grafana.parents[1] / 'share/grafana'}",
        f"--config={b.run / 'grafana.ini'}",
    )
    ini = ConfigParser()
    ini.read_string(assembly.files(b)[b.run / "grafana.ini"])
    assert (ini["server"]["http_addr"], ini["server"]["http_port"]) == ("127.0.0.1", str(b.ports.grafana))
    assert ini["auth.anonymous"]["org_role"] == "Viewer"
    assert ini["auth"]["disable_login_form"] == "true"
    assert assembly.ports_needed(b)["grafana"] == b.ports.grafana


def test_grafanas_provisioning_finds_the_prometheus_and_the_dashboard_of_this_machine(
    blueprint, fake_grafana
):
    b = blueprint()
    b = replace(b, tools=replace(b.tools, grafana=find_grafana()))
    env = named(b)["grafana"].env
    ini = ConfigParser()
    ini.read_string(assembly.files(b)[b.run / "grafana.ini"])
    provisioning = Path(ini["paths"]["provisioning"])
    (source,) = yaml.safe_load((provisioning / "datasources/prometheus.yaml").read_text())["datasources"]
    (provider,) = yaml.safe_load((provisioning / "dashboards/ml-model.yaml").read_text())["providers"]
    assert Template(source["url"]).substitute(env) == b.prometheus
    assert Path(Template(provider["options"]["path"]).substitute(env)) == b.dashboard.parent


def test_without_a_grafana_none_is_started_and_its_port_may_be_taken(blueprint, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_grafana() is None
    assert "grafana" not in named(blueprint())
    assert "grafana" not in assembly.ports_needed(blueprint())
