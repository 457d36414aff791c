from dataclasses import replace
from pathlib import Path

import pytest
from blueprints import TOOLS

from fraudscale.config import (
    AlertSettings,
    HttpSettings,
    KafkaSettings,
    LocalSettings,
    ModelSettings,
)
from fraudscale.local.components.blueprint import Blueprint
from fraudscale.local.install.download import OpenSearchTools
from fraudscale.local.install.ports import Ports


@pytest.fixture
def blueprint(tmp_path):
    def build(*, traffic=True, prometheus=None, model=None, kafka=None, http=None, mode="kraft"):
        local = LocalSettings(
            fraudscale_home=tmp_path,
            fraudscale_port_base=21_000,
            fraudscale_traffic=traffic,
            prometheus_endpoint=prometheus,
            fraudscale_kafka=mode,
        )
        return Blueprint(
            local,
            ModelSettings(**model or {}),
            KafkaSettings(**kafka or {}),
            HttpSettings(**http or {}),
            AlertSettings(),
            TOOLS,
            Ports.at(21_000),
        )

    return build


@pytest.fixture
def with_logs(blueprint):
    """A blueprint with central logs, in an OpenSearch of ours or at an address."""

    def build(endpoint=None):
        b = blueprint()
        settings = {"fraudscale_logs": "opensearch", "opensearch_endpoint": endpoint}
        tools = None if endpoint else OpenSearchTools(Path("/t/libjvm.so"), "/t/opensearch/*")
        local = b.local.model_copy(update=settings)
        return replace(b, local=local, tools=replace(b.tools, opensearch=tools))

    return build
