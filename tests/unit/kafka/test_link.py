"""How the broker's absence is told."""

import structlog
from structlog.testing import capture_logs

from fraudscale.kafka.client import BrokerLink


def test_a_link_tells_changes_only():
    with capture_logs() as lines:
        link = BrokerLink("kafka:9092", structlog.get_logger())
        for change in (link.back, lambda: link.lost("a"), lambda: link.lost("b"), link.back, link.back):
            change()
    assert [line["event"] for line in lines] == ["broker_unavailable", "broker_back"]
    assert lines[0]["reason"] == "a"
