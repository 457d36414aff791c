import pytest
from hpa_cases import RECORDED, Plant, manifest

from fraudscale.hpa import MEBIBYTE_MILLI, Memory, Observed, read_manifest, sync

# A live controller's ticks are its period and the time of a sync apart.
PERIOD = RECORDED["sync_period_s"] + 0.1


def replay(case, first_tick, pod_ready_after):
    wanted = read_manifest(
        manifest(low=case["min"], high=case["max"], metrics=case["metrics"], behavior=case["behavior"]),
        "hpa.yaml",
    )
    plant = Plant(
        case["initial_replicas"],
        cpu_request_m=RECORDED["cpu_request_m"],
        memory_request_milli=RECORDED["memory_request_mi"] * MEBIBYTE_MILLI,
        ready_delay_s=pod_ready_after,
    )
    memory, now, changes = Memory(), first_tick, []
    while now < RECORDED["duration_s"]:
        _, cpu, memory_mi, share = next(row for row in case["load"] if now < row[0])
        running = plant.pods(now, cpu, memory_mi * MEBIBYTE_MILLI, share)
        decision = sync(wanted, memory, Observed(len(running), running), now)
        if decision.changed:
            changes.append((now, decision.current, decision.target))
            plant.scale(decision.target, now)
        now += PERIOD
    return changes


@pytest.mark.parametrize("pod_ready_after", [1, 2])
@pytest.mark.parametrize("name", RECORDED["cases"])
def test_a_recorded_controller_did_the_same_within_one_tick(name, pod_ready_after):
    case = RECORDED["cases"][name]
    expected = [(change["t"], change["from"], change["to"]) for change in case["changes"]]
    changes = replay(case, expected[0][0] % PERIOD, pod_ready_after)
    assert [change[1:] for change in changes] == [change[1:] for change in expected]
    for (found, *_), (recorded, *_) in zip(changes, expected, strict=True):
        assert found == pytest.approx(recorded, abs=PERIOD + 1)
