"""HPAs of others: metrics that no trace holds, one container's metrics, several HPAs in a file."""

import pytest
import yaml
from rehearsals import CPU, MEMORY, manifest
from typer.testing import CliRunner

from fraudscale.cli import app
from fraudscale.errors import InputError
from fraudscale.hpa import ManifestError, read_manifest
from fraudscale.rehearsal.rehearse import measurable

LAG = {
    "type": "External",
    "external": {"metric": {"name": "lag"}, "target": {"type": "AverageValue", "averageValue": "10"}},
}


def container(name, resource):
    return {
        "type": "ContainerResource",
        "containerResource": {
            "name": resource,
            "container": name,
            "target": {"type": "Utilization", "averageUtilization": 55},
        },
    }


def kept(*metrics):
    hpa, said = measurable("hpa.yaml", read_manifest(manifest(metrics=metrics), "hpa.yaml"))
    return [(m.key, m.target.value) for m in hpa.metrics], said


def rehearse(path, *options):
    command = ["rehearse", "--hpa", str(path), "--shape", "spike:1000-2200:5m"]
    command += ["--cpu-request-m", "500", "--memory-request-mi", "512", *options]
    done = CliRunner().invoke(app, command)
    if isinstance(done.exception, InputError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done


@pytest.fixture
def file(tmp_path):
    def write(*texts):
        path = tmp_path / "hpa.yaml"
        path.write_text("---\n".join(texts))
        return path

    return write


def test_cpu_and_memory_are_kept_as_they_are_and_nothing_is_said():
    assert kept(CPU, MEMORY) == ([("Resource/cpu", 70), ("Resource/memory", 80)], "")


def test_what_a_trace_does_not_hold_is_left_out_and_named():
    metrics, said = kept(LAG, CPU)
    assert metrics == [("Resource/cpu", 70)]
    assert said == "rehearsed without External/lag, which may want more replicas than CPU and memory do"


def test_a_container_stands_for_its_pod_where_nothing_else_has_its_resource():
    metrics, said = kept(container("app", "cpu"), MEMORY)
    assert metrics == [("Resource/memory", 80), ("Resource/cpu", 55)]
    assert said == "ContainerResource/app/cpu: the load and the requests are taken as those of that container"


def test_a_second_container_and_one_beside_its_pod_are_left_out():
    metrics, said = kept(container("app", "cpu"), container("proxy", "cpu"))
    assert metrics == [("Resource/cpu", 55)]
    assert said.startswith("rehearsed without ContainerResource/cpu, ")
    assert "; ContainerResource/app/cpu: the load" in said
    assert kept(CPU, container("app", "cpu"))[0] == [("Resource/cpu", 70)]


def test_without_any_cpu_or_memory_there_is_nothing_to_rehearse():
    with pytest.raises(
        ManifestError, match=r"hpa\.yaml: spec\.metrics: a trace holds .* nothing for External/lag"
    ):
        kept(LAG)


def test_the_command_warns_once_beside_its_result(file):
    path = file(manifest(metrics=[CPU, LAG]))
    done = rehearse(path)
    warning = f"fraudscale: {path}: rehearsed without External/lag, which may want more replicas"
    assert done.stderr.count("fraudscale: ") == 1
    assert warning in done.stderr
    assert "External" not in done.stdout
    assert done.stdout == rehearse(file(manifest(metrics=[CPU]))).stdout


def test_a_strict_rehearsal_refuses_it(file):
    path = file(manifest(metrics=[CPU, LAG]))
    with pytest.raises(ManifestError, match="without --strict: rehearsed without External/lag"):
        rehearse(path, "--strict")
    assert not rehearse(file(manifest(metrics=[CPU, MEMORY])), "--strict").stderr.count("fraudscale: ")


def test_all_hpas_of_a_file_are_rehearsed_side_by_side(file):
    other = yaml.safe_load(manifest(most=8))
    other["metadata"] = {"name": "other", "namespace": "shop"}
    path = file(manifest(), yaml.safe_dump(other))
    head, *_ = rehearse(path).stdout.splitlines()
    assert head.split("  ")[-2:] == [f"{path}, default/ml-model", f"{path}, shop/other"]
    with pytest.raises(InputError, match="--suggest varies one HPA, and there are 2"):
        rehearse(path, "--suggest", "100")
