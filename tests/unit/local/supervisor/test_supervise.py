"""Histories replayed against the supervisor: neither a process nor a second is spent."""

from signal import SIGKILL, SIGTERM

import pytest
from world import World

from fraudscale.local.supervisor.component import Component
from fraudscale.local.supervisor.supervise import HUNG_MISSES, STOP_SECONDS


class Switch:
    """A readiness check that a test turns."""

    def __init__(self, on=True):
        self.on = on

    def __call__(self):
        return self.on


def component(name, **fields):
    return Component(name, ("run", name), ready=fields.pop("ready", lambda: True), **fields)


def job(name, **fields):
    return Component(name, ("run", name), once=True, **fields)


def test_a_part_starts_once_what_it_needs_is_ready():
    answer = Switch(on=False)
    world = World(component("kafka", ready=answer), component("stream", needs=("kafka",))).run()
    assert world.started() == ["kafka"]
    answer.on = True
    assert world.run().started() == ["kafka", "stream"]


def test_a_part_that_needs_a_job_starts_when_the_job_has_ended_well():
    world = World(job("topics"), component("stream", needs=("topics",))).run()
    assert world.started() == ["topics"]
    world.die("topics", 0).run()
    assert (world.state("topics"), world.state("stream")) == ("done", "ready")


def test_the_start_has_succeeded_when_every_part_is_ready_and_every_job_done():
    world = World(component("kafka"), job("topics")).run()
    assert not world.supervisor.started
    world.die("topics", 0)
    assert world.supervisor.started
    assert world.supervisor.ready


def test_a_part_without_a_check_is_ready_once_it_has_run_a_moment():
    world = World(Component("traffic", ("run",))).run(1)
    assert world.state("traffic") == "starting"
    assert world.run(1).state("traffic") == "ready"


def test_an_answer_of_somebody_else_at_its_port_does_not_count():
    world = World(component("serve", address="http://127.0.0.1:8101/"))
    world.machine.strangers.add(8101)
    assert world.run(5).state("serve") == "starting"
    world.machine.strangers.clear()
    assert world.run().state("serve") == "ready"
    world.machine.strangers.add(8101)
    world.die("serve").run(30)
    assert (world.state("serve"), len(world.started())) == ("starting", 2)


def test_a_check_that_raises_counts_as_not_ready():
    def broken():
        raise RuntimeError

    assert World(component("kafka", ready=broken)).run().state("kafka") == "starting"


@pytest.mark.parametrize(("code", "reason"), [(3, "exit code 3"), (-9, "killed by SIGKILL")])
def test_a_part_that_dies_while_starting_ends_the_start(code, reason):
    world = World(component("mlflow"), component("kafka", ready=Switch(on=False))).run()
    world.die("kafka", code).run()
    failure = world.supervisor.failure
    assert (failure.component, failure.reason) == ("kafka", reason)
    assert world.supervisor.stopped
    assert world.child("mlflow").signals == [SIGTERM]


def test_a_job_that_fails_ends_the_start_and_what_needs_it_never_runs():
    world = (
        World(job("first-model"), component("serve", needs=("first-model",)))
        .run()
        .die("first-model", 1)
        .run()
    )
    assert world.supervisor.failure.component == "first-model"
    assert world.started() == ["first-model"]
    assert world.supervisor.stopped


def test_a_command_that_cannot_be_started_ends_the_start():
    world = World(component("kafka"))
    world.machine.missing.add("kafka")
    assert "No such file" in world.run().supervisor.failure.reason


def test_a_part_that_is_not_ready_in_its_time_ends_the_start():
    world = World(component("kafka", ready=Switch(on=False), ready_seconds=3)).run(2.9)
    assert world.supervisor.failure is None
    world.run(1)
    assert world.supervisor.failure.reason == "not ready after 3 s"
    assert world.supervisor.stopped


def test_a_failure_keeps_even_those_from_starting_whose_needs_were_met_in_that_moment():
    world = World(job("topics"), job("first-model"), component("stream", needs=("topics",))).run()
    world.child("topics").code = 0
    world.die("first-model", 1).run()
    assert world.started() == ["topics", "first-model"]


def test_only_the_first_failure_is_told():
    world = World(component("a", ready=Switch(on=False)), component("b", ready=Switch(on=False))).run()
    world.child("b").code = 1
    world.die("a", 2).run()
    assert world.supervisor.failure.component == "a"
    assert world.told("part_failed") == ["a"]


def test_a_part_that_dies_later_is_restarted_and_the_platform_is_not_ready_meanwhile():
    world = World(component("kafka"), component("mlflow")).run().die("kafka")
    assert world.state("kafka") == "restarting"
    assert not world.supervisor.ready
    world.run(1)
    assert world.supervisor.ready
    assert (world.told("part_died"), world.told("part_restarted")) == (["kafka"], ["kafka"])


def test_a_part_that_dies_again_and_again_takes_no_other_with_it_not_even_during_the_start():
    """A scorer that finds a record in the topic that it does not survive, while others still start."""
    slow = component("prometheus", ready=Switch(on=False), ready_seconds=1000)
    world = World(component("serve"), component("stream"), slow).run()
    for _ in range(8):
        world.die("stream", -9).run(31)
    assert (world.supervisor.failure, world.child("serve").signals) == (None, [])
    assert (world.state("serve"), world.state("stream")) == ("ready", "ready")
    assert world.told("part_restarted") == ["stream"] * 8


def test_a_restart_does_not_wait_for_needs():
    answer = Switch()
    world = World(component("kafka", ready=answer), component("stream", needs=("kafka",))).run()
    answer.on = False
    world.die("kafka").die("stream").run(1)
    assert world.started() == ["kafka", "stream", "kafka", "stream"]


def test_what_a_dead_leader_leaves_in_its_group_is_killed_before_the_restart():
    world = World(component("mlflow")).run()
    first = world.child("mlflow")
    world.die("mlflow")
    assert first.group_signals == [SIGKILL]


def test_the_pause_before_a_restart_doubles_up_to_its_limit():
    world = World(component("kafka")).run()
    for _ in range(9):
        world.die("kafka").run(31)
    pauses = [event.details["restart_in_seconds"] for event in world.events if event.kind == "part_died"]
    assert pauses == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]


def test_a_minute_of_health_makes_the_pause_short_again():
    world = World(component("kafka")).run().die("kafka").run(5).die("kafka").run(62).die("kafka")
    pauses = [event.details["restart_in_seconds"] for event in world.events if event.kind == "part_died"]
    assert pauses == [0.5, 1.0, 0.5]


def test_a_command_that_vanished_is_tried_again_too():
    world = World(component("kafka")).run()
    world.machine.missing.add("kafka")
    world.die("kafka").run(3)
    assert world.state("kafka") == "restarting"
    world.machine.missing.clear()
    assert world.run(5).state("kafka") == "ready"


def test_a_ready_part_counts_as_unready_only_after_three_misses_and_is_not_killed_for_it():
    answer = Switch()
    world = World(component("kafka", ready=answer)).run()
    answer.on = False
    assert world.run(9).state("kafka") == "ready"
    assert world.run(200).state("kafka") == "starting"
    assert not world.supervisor.ready
    assert world.child("kafka").code is None


def hung(world, seconds=200.0):
    """Let time pass until something is killed for hanging; return how long that took."""
    began = world.machine.time
    while not world.told("part_hung") and world.machine.time - began < seconds:
        world.run(0.1)
    return world.machine.time - began


def test_a_part_that_hangs_for_a_minute_is_killed_with_its_group_and_started_again():
    answer = Switch()
    world = World(component("stream", ready=answer, alive=answer)).run()
    first, answer.on = world.child("stream"), False
    assert 60 < hung(world) < 100
    assert first.group_signals[0] == SIGKILL
    answer.on = True
    assert world.run(1).state("stream") == "ready"
    assert (world.told("part_died"), world.told("part_restarted")) == (["stream"], ["stream"])


def test_a_part_that_lives_is_not_killed_however_long_it_is_unready():
    ready, alive = Switch(), Switch()
    world = World(component("stream", ready=ready, alive=alive)).run()
    ready.on = False
    assert hung(world, 600) >= 600
    alive.on = False
    world.run((HUNG_MISSES - 2) * 5)
    alive.on = True  # one sign of life, and counting begins anew
    world.run(5)
    alive.on = False
    assert hung(world, (HUNG_MISSES - 2) * 5) >= (HUNG_MISSES - 2) * 5
    assert world.child("stream").code is None


def test_a_part_that_was_never_ready_since_its_start_is_not_taken_for_hung():
    """A broker that was killed reads its log for as long as that takes."""
    answer = Switch()
    world = World(component("kafka", ready=answer, alive=answer)).run()
    answer.on = False
    world.die("kafka")
    assert hung(world, 600) >= 600
    assert world.started() == ["kafka", "kafka"]


def test_nothing_is_killed_for_hanging_once_all_of_it_stops():
    answer = Switch()
    world = World(component("stream", ready=answer, alive=answer, stop_seconds=5)).run()
    answer.on = False
    world.run(70)
    world.child("stream").stubborn = True
    world.supervisor.stop()
    assert world.run(20).told("part_hung") == []
    assert world.told("part_killed") == ["stream"]


def test_a_part_stops_phase_by_phase_with_its_own_signal():
    world = World(component("kafka", stop_phase=1), component("traffic", stop_phase=0)).run()
    world.child("traffic").stubborn = True
    world.supervisor.stop()
    world.run(1)
    assert (world.child("traffic").signals, world.child("kafka").signals) == ([SIGTERM], [])
    world.die("traffic", 0).run()
    assert world.child("kafka").signals == [SIGTERM]
    assert world.supervisor.stopped


def test_a_part_that_ignores_its_signal_is_killed_with_its_group_after_its_time():
    world = World(component("serve", stop_seconds=2)).run()
    world.child("serve").stubborn = True
    world.supervisor.stop()
    assert SIGKILL not in world.run(1.9).child("serve").group_signals
    assert SIGKILL in world.run(0.5).child("serve").group_signals
    assert world.told("part_killed") == ["serve"]
    assert world.supervisor.stopped


def test_orphans_of_a_stopped_leader_get_the_signal_then_the_kill():
    world = World(component("mlflow", stop_seconds=1)).run()
    child = world.child("mlflow")
    child.orphans = True
    world.supervisor.stop()
    assert world.run(0.3).child("mlflow").group_signals == [SIGTERM]
    assert not world.supervisor.stopped
    world.run(1.5)
    assert child.group_signals[-1] == SIGKILL
    assert world.supervisor.stopped


def test_a_stop_of_stubborn_parts_ends_in_time_and_leaves_some_of_it_to_each_phase():
    world = World(*(component(f"p{i}", stop_phase=i, stop_seconds=60) for i in range(3))).run()
    for i in range(3):
        world.child(f"p{i}").stubborn = True
    begin = world.machine.time
    world.supervisor.stop()
    world.run(STOP_SECONDS - 1.5)
    assert world.child("p2").signals == [SIGTERM]
    while not world.supervisor.stopped:
        world.run(0.1)
    assert world.machine.time - begin <= STOP_SECONDS + 0.5


def test_a_forced_stop_kills_every_group_at_once():
    world = World(component("a", stop_phase=0), component("b", stop_phase=1)).run()
    for name in "ab":
        world.child(name).stubborn = True
    world.supervisor.stop()
    world.run(0.3).supervisor.force()
    world.run(0.3)
    assert all(SIGKILL in world.child(name).group_signals for name in "ab")
    assert world.supervisor.stopped


def test_a_stop_while_starting_starts_nothing_more():
    world = World(component("kafka", ready=Switch(on=False)), component("stream", needs=("kafka",))).run()
    world.supervisor.stop()
    assert world.run().started() == ["kafka"]
    assert (world.supervisor.stopped, world.supervisor.failure) == (True, None)


def test_a_part_that_dies_while_others_stop_is_not_restarted():
    world = World(component("a", stop_phase=0), component("b", stop_phase=1)).run()
    world.child("a").stubborn = True
    world.supervisor.stop()
    world.run(0.3).die("b").run(3)
    assert world.started() == ["a", "b"]
    assert world.state("b") == "stopped"


def test_a_part_that_waits_for_its_restart_is_simply_not_restarted_by_a_stop():
    world = World(component("a"), component("b")).run().die("a")
    world.supervisor.stop()
    assert world.run(2).started() == ["a", "b"]
    assert world.supervisor.stopped


def test_parts_can_be_added_while_running():
    world = World(component("replica-1/serve")).run()
    world.supervisor.add([component("replica-5/serve", needs=("replica-1/serve",))])
    assert not world.supervisor.ready
    assert world.run().supervisor.ready


def test_an_added_part_that_fails_to_start_is_restarted_and_does_not_end_the_platform():
    world = World(component("replica-1/serve")).run()
    world.supervisor.add([component("replica-5/serve", ready=Switch(on=False))])
    world.run(200).die("replica-5/serve").run(2)
    assert world.supervisor.failure is None
    assert world.started().count("replica-5/serve") == 2


def test_a_removed_part_is_stopped_and_forgotten_and_others_stay_ready():
    world = World(component("replica-1/serve"), component("replica-5/serve", stop_seconds=3)).run()
    world.child("replica-5/serve").stubborn = True
    world.supervisor.remove(["replica-5/serve"])
    assert world.run(1).supervisor.ready
    world.run(3)
    assert list(world.supervisor.managed) == ["replica-1/serve"]
    assert world.child("replica-1/serve").signals == []


def test_a_removed_part_that_waits_for_its_restart_is_forgotten_at_once():
    world = World(component("replica-5/serve")).run().die("replica-5/serve")
    world.supervisor.remove(["replica-5/serve"])
    assert world.run(2).supervisor.managed == {}
    assert world.started() == ["replica-5/serve"]


@pytest.mark.parametrize("components", [[component("kafka")], [component("stream", needs=("nobody",))]])
def test_a_name_twice_or_an_unknown_need_is_refused(components):
    world = World(component("kafka"))
    with pytest.raises(ValueError, match=r"kafka|nobody"):
        world.supervisor.add(components)


def test_a_step_in_which_nothing_changes_tells_nobody():
    world = World(component("kafka")).run()
    before = world.changes
    assert world.run(2).changes == before
    assert world.die("kafka").changes == before + 1
