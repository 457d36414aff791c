"""What a cluster installs for its logs: files that agree with each other, with the index, and with what the code writes."""

import json
import re
from pathlib import Path

import kibana_objects
import pytest
import yaml
from fluentd_conf import parse

from fraudscale.central_logs.fields import (
    COMMON,
    DEAD_LOGS,
    LIFECYCLE,
    LOGS,
    OF_EVENTS,
    dead_logs_template,
    logs_template,
)

ROOT = Path(__file__).parents[3] / "logging"
FLUENTD = parse((ROOT / "fluentd/fluent.conf").read_text())
MANIFESTS = [yaml.safe_load(path.read_text()) for path in sorted((ROOT / "fluentd").glob("*.yaml"))]
TEMPLATES = {
    name: json.loads((ROOT / f"elasticsearch/{name}.json").read_text()) for name in (LOGS, DEAD_LOGS)
}
SHARED = {"keyword", "text", "date", "boolean", "long", "double", "alias"}
"""Field types that Elasticsearch and OpenSearch both have."""
IMAGE_BRINGS = {
    *("tail", "relabel", "parser", "record_transformer", "secondary_file", "file", "json"),
    *("prometheus", "prometheus_monitor", "prometheus_output_monitor", "prometheus_tail_monitor"),
    *("grep", "cri", "concat", "kubernetes_metadata", "elasticsearch", "elasticsearch_genid"),
}


def manifest(kind):
    (found,) = [one for one in MANIFESTS if one["kind"] == kind]
    return found


def fields(properties, before=""):
    for name, one in properties.items():
        if "properties" in one:
            yield from fields(one["properties"], f"{before}{name}.")
        else:
            yield f"{before}{name}", one


# --- index templates


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_uses_only_what_both_stores_have(name):
    template = TEMPLATES[name]
    assert {one["type"] for _, one in fields(template["template"]["mappings"]["properties"])} <= SHARED
    assert set(template["template"]["settings"]) == {"index"}
    assert not any("lifecycle" in key for key in template["template"]["settings"]["index"])


def test_a_field_that_nobody_named_is_refused_and_a_dead_letter_may_hold_anything():
    assert TEMPLATES[LOGS]["template"]["mappings"]["dynamic"] == "strict"
    assert TEMPLATES[DEAD_LOGS]["template"]["mappings"]["dynamic"] is False


def test_every_field_of_a_line_has_the_type_of_the_table():
    known = dict(fields(TEMPLATES[LOGS]["template"]["mappings"]["properties"]))
    for name, kind in (COMMON | OF_EVENTS).items():
        assert known[name]["type"] == kind


@pytest.mark.parametrize("name", TEMPLATES)
def test_an_alias_leads_to_a_field(name):
    known = dict(fields(TEMPLATES[name]["template"]["mappings"]["properties"]))
    aliases = {field: one["path"] for field, one in known.items() if one["type"] == "alias"}
    assert "trace.id" in aliases
    assert all(path in known for path in aliases.values())


def test_the_templates_cannot_both_match_an_index():
    assert TEMPLATES[LOGS]["index_patterns"] == [f"{LOGS}-*"]
    assert TEMPLATES[DEAD_LOGS]["index_patterns"] == [f"{DEAD_LOGS}-*"]
    assert not f"{DEAD_LOGS}-2026.11.25".startswith(f"{LOGS}-")


# --- the lifecycle, Elasticsearch's own


def test_the_lifecycle_deletes_after_days_and_writes_to_no_index_of_today():
    phases = json.loads((ROOT / "elasticsearch/ilm-policy.json").read_text())["policy"]["phases"]
    ages = {name: phase["min_age"] for name, phase in phases.items()}
    assert set(phases) == {"hot", "warm", "delete"}
    assert all(re.fullmatch(r"\d+(d|ms)", age) for age in ages.values())
    # Lines may come a day late; a read-only index would refuse them.
    assert int(ages["warm"].rstrip("d")) >= 2
    assert "delete" in phases["delete"]["actions"]
    assert "rollover" not in phases["hot"]["actions"], (
        "an index has the name of its day, so there is no alias to roll"
    )


def test_the_installer_puts_each_file_where_the_others_look_for_it():
    script = (ROOT / "elasticsearch/install.sh").read_text()
    puts = dict(re.findall(r"^put (\S+) (\S+)$", script, re.MULTILINE))
    assert puts == {
        "_ilm/policy/fraudscale-logs": "ilm-policy.json",
        f"_component_template/{LIFECYCLE}": f"{LIFECYCLE}.json",
        f"_index_template/{LOGS}": f"{LOGS}.json",
        f"_index_template/{DEAD_LOGS}": f"{DEAD_LOGS}.json",
    }
    component = json.loads((ROOT / f"elasticsearch/{LIFECYCLE}.json").read_text())
    assert f"_ilm/policy/{component['template']['settings']['index.lifecycle.name']}" in puts
    assert all(template["composed_of"] == [LIFECYCLE] for template in TEMPLATES.values())
    assert all((ROOT / "elasticsearch" / file).is_file() for file in puts.values())


# --- Fluentd


def outputs():
    return [one for one in FLUENTD.all("match") if one.values["@type"] == "elasticsearch"]


def test_every_plugin_is_one_that_the_image_brings():
    types = {
        one.values["@type"]
        for name in ("source", "match", "filter", "parse", "buffer", "secondary")
        for one in FLUENTD.all(name)
    }
    assert types <= IMAGE_BRINGS
    ids = [
        one.values["@id"] for name in ("source", "filter", "match", "secondary") for one in FLUENTD.all(name)
    ]
    assert len(ids) == len(set(ids)), "metrics of plugins are told apart by their ids"


def test_it_reads_container_logs_in_the_format_of_the_runtime_and_remembers_where_it_was():
    (tail,) = [one for one in FLUENTD.all("source") if one.values["@type"] == "tail"]
    assert "/var/log/containers/*_ml-model_*.log" in tail.values["path"]
    assert tail.one("parse").values["@type"] == "cri"
    assert tail.values["read_from_head"] == tail.values["follow_inodes"] == "true"
    assert tail.values["pos_file"].startswith(state_folder())


def test_records_wait_on_the_disk_of_the_node_and_are_sent_again_under_the_same_ids():
    assert len(outputs()) == 2
    for output in outputs():
        buffer = output.one("buffer").values
        assert buffer["@type"] == "file"
        assert buffer["path"].startswith(state_folder())
        assert buffer["retry_type"] == "exponential_backoff"
        assert "total_limit_size" in buffer
        assert output.one("secondary").values["directory"].startswith(state_folder())
        assert (output.values["id_key"], output.values["write_operation"]) == ("_hash", "create")
    assert [one.one("buffer").values["overflow_action"] for one in outputs()] == [
        "block",
        "drop_oldest_chunk",
    ]


def test_lines_and_dead_letters_go_to_the_indices_of_the_templates():
    assert [one.values["index_name"] for one in outputs()] == [f"{LOGS}-%Y.%m.%d", f"{DEAD_LOGS}-%Y.%m.%d"]
    assert all(one.one("buffer").argument == "time" for one in outputs()), "the day is that of the chunk"


def test_what_no_filter_or_index_takes_reaches_the_dead_letters_and_those_go_round_no_circle():
    labels = {one.argument: one for one in FLUENTD.all("label")}
    (parser,) = [one for one in labels["@WHOLE"].all("filter") if one.values["@type"] == "parser"]
    assert parser.values["emit_invalid_record_to_error"] == "true"
    # with reserve_data the parser passes on what it can't parse, too
    (text,) = [one for one in labels["@WHOLE"].all("filter") if one.values["@id"] == "no_text"]
    assert excluded(text) == {"event": "/\\A\\z/", "message": "/./"}
    first = next(labels["@ERROR"].all("filter"))
    (dead,) = labels["@ERROR"].all("record")
    assert excluded(first) == dict.fromkeys(("reason", "line"), "/./")
    assert excluded(first).keys() <= dead.values.keys()


def excluded(grep):
    return {one.values["key"]: one.values["pattern"] for one in grep.one("and").all("exclude")}


def test_a_busy_index_is_asked_again_and_no_chunk_given_up_for_it():
    for output in outputs():
        assert output.values["unrecoverable_error_types"] == '["out_of_memory_error"]'


def test_records_have_only_fields_that_the_index_knows():
    for label, template in (("@WHOLE", LOGS), ("@ERROR", DEAD_LOGS)):
        known = dict(fields(TEMPLATES[template]["template"]["mappings"]["properties"]))
        (section,) = [one for one in FLUENTD.all("label") if one.argument == label]
        (record,) = section.all("record")
        for name, value in record.values.items():
            parts = re.findall(r'"(\w+)" => ', value) if name == "kubernetes" else [None]
            for part in parts:
                assert (f"{name}.{part}" if part else name) in known
    (origin,) = [one for one in FLUENTD.all("filter") if one.values["@id"] == "origin"]
    assert set(origin.values["remove_keys"].split(",")) == {"stream", "logtag", "docker", "time"}


def test_labels_become_text_because_dots_in_names_contradict_each_other():
    known = dict(fields(TEMPLATES[LOGS]["template"]["mappings"]["properties"]))
    assert known["kubernetes.labels"]["type"] == "keyword"
    (origin,) = [one for one in FLUENTD.all("filter") if one.values["@id"] == "origin"]
    assert '"#{name}=#{value}"' in origin.one("record").values["kubernetes"]


# --- its manifests


def state_folder():
    pod = manifest("DaemonSet")["spec"]["template"]["spec"]
    (path,) = [v["hostPath"]["path"] for v in pod["volumes"] if v["name"] == "state"]
    return path


def test_the_kustomization_has_every_manifest_and_the_configuration():
    kustomization = manifest("Kustomization")
    there = {path.name for path in (ROOT / "fluentd").glob("*.yaml")} - {"kustomization.yaml"}
    assert set(kustomization["resources"]) == there
    (generated,) = kustomization["configMapGenerator"]
    pod = manifest("DaemonSet")["spec"]["template"]["spec"]
    assert generated["name"] in [v["configMap"]["name"] for v in pod["volumes"] if "configMap" in v]
    assert all((ROOT / "fluentd" / file).is_file() for file in generated["files"])


def test_the_daemon_may_read_names_of_pods_and_nothing_else():
    (rule,) = manifest("ClusterRole")["rules"]
    assert (set(rule["resources"]), set(rule["verbs"])) == ({"pods", "namespaces"}, {"get", "list", "watch"})
    (subject,) = manifest("ClusterRoleBinding")["subjects"]
    account = manifest("ServiceAccount")["metadata"]
    assert (subject["name"], subject["namespace"]) == (account["name"], account["namespace"])
    assert manifest("DaemonSet")["spec"]["template"]["spec"]["serviceAccountName"] == account["name"]


def test_temporary_folders_are_made_where_not_everybody_may_write():
    (container,) = manifest("DaemonSet")["spec"]["template"]["spec"]["containers"]
    assert {"name": "TMPDIR", "value": state_folder()} in container["env"]


def test_the_daemon_is_bounded_and_writes_only_to_its_own_folders():
    pod = manifest("DaemonSet")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    security = container["securityContext"]
    assert security["readOnlyRootFilesystem"] is True
    assert security["allowPrivilegeEscalation"] is False
    assert security["capabilities"]["drop"] == ["ALL"]
    assert container["resources"]["limits"]["memory"]
    assert not container["image"].endswith(":latest")
    writable = {m["name"] for m in container["volumeMounts"] if not m.get("readOnly")}
    assert writable == {"state", "tmp"}
    volumes = {v["name"] for v in pod["volumes"]}
    assert {m["name"] for m in container["volumeMounts"]} == volumes


def test_prometheus_finds_its_metrics():
    (port,) = manifest("DaemonSet")["spec"]["template"]["spec"]["containers"][0]["ports"]
    (source,) = [one for one in FLUENTD.all("source") if one.values["@type"] == "prometheus"]
    template = manifest("DaemonSet")["spec"]["template"]["metadata"]["annotations"]
    assert str(port["containerPort"]) == source.values["port"] == template["prometheus.io/port"]


# --- Logstash


def test_logstash_fills_the_same_indices_and_keeps_what_is_refused():
    lines, dead = ((ROOT / f"logstash/{name}.conf").read_text() for name in ("lines", "dead-lines"))
    assert set(re.findall(r"fraudscale-[a-z-]*logs", lines)) == {LOGS, DEAD_LOGS}
    assert re.findall(r'index => "(.*)-%\{\+YYYY.MM.dd\}"', dead) == [DEAD_LOGS]
    pipelines = {
        one["pipeline.id"]: one for one in yaml.safe_load((ROOT / "logstash/pipelines.yml").read_text())
    }
    assert pipelines["lines"]["dead_letter_queue.enable"] is True
    assert 'pipeline_id => "lines"' in dead
    for pipeline in pipelines.values():
        assert (ROOT / "logstash" / pipeline["path.config"].rpartition("/")[2]).is_file()
    for text in (lines, dead):
        assert "manage_template => false" in text
        code = re.sub(r"\"[^\"\n]*\"|#.*", "", text)
        assert code.count("{") == code.count("}")


# --- Kibana


def test_saved_objects_refer_only_to_objects_and_fields_that_there_are():
    lines = (ROOT / "kibana/fraudscale.ndjson").read_text().splitlines()
    objects = {(one["type"], one["id"]): one for one in map(json.loads, lines)}
    assert len(objects) == len(lines)
    for one in objects.values():
        for reference in one["references"]:
            assert (reference["type"], reference["id"]) in objects
    known = {
        name: dict(fields(template["template"]["mappings"]["properties"]))
        for name, template in TEMPLATES.items()
    }
    for one in (one for one in objects.values() if one["type"] in {"search", "visualization"}):
        (pattern,) = [reference["id"] for reference in one["references"]]
        for field in named_fields(one):
            assert field in known[pattern], (one["id"], field)


def named_fields(one):
    yield from one["attributes"].get("columns", [])
    source = json.loads(one["attributes"]["kibanaSavedObjectMeta"]["searchSourceJSON"])
    yield from re.findall(r"([\w.]+):", source["query"]["query"])
    for aggregation in json.loads(one["attributes"].get("visState", "{}")).get("aggs", []):
        if "field" in aggregation["params"]:
            yield aggregation["params"]["field"]


def test_a_pattern_is_ordered_by_the_time_of_the_line():
    lines = map(json.loads, (ROOT / "kibana/fraudscale.ndjson").read_text().splitlines())
    patterns = [one["attributes"] for one in lines if one["type"] == "index-pattern"]
    assert {one["title"] for one in patterns} == {f"{LOGS}-*", f"{DEAD_LOGS}-*"}
    assert {one["timeFieldName"] for one in patterns} == {"timestamp"}


# --- what `make gen` writes


@pytest.mark.parametrize(("name", "made"), [(LOGS, logs_template), (DEAD_LOGS, dead_logs_template)])
def test_a_committed_template_is_the_one_of_the_table(name, made):
    assert TEMPLATES[name] == made()


def test_the_committed_saved_objects_are_those_of_the_code():
    assert (ROOT / "kibana/fraudscale.ndjson").read_text() == kibana_objects.saved_objects()


def test_the_dashboard_shows_charts_and_searches_that_do_not_cover_each_other():
    dashboard = json.loads(kibana_objects.saved_objects().splitlines()[-1])
    panels = json.loads(dashboard["attributes"]["panelsJSON"])
    assert [one["panelRefName"] for one in panels] == [one["name"] for one in dashboard["references"]]
    cells = [
        (x, y)
        for grid in (one["gridData"] for one in panels)
        for x in range(grid["x"], grid["x"] + grid["w"])
        for y in range(grid["y"], grid["y"] + grid["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 48
