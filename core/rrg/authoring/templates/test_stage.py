from rrg import compose
from rrg.plan.counting import plan


def test_the_connector_trains_first_and_everything_after_it() -> None:
    probe, train = plan(compose("$name+core.train", host="smollm2-135m")).stages
    assert {part for part, count in probe.trains.items() if count} == {"core.connector"}
    assert {part for part, count in train.trains.items() if count} == {"host.lora", "core.encoder", "core.connector"}
