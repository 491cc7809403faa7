"""The order of one run's jobs of one level, in process."""

from services.queue.lane import Lane


def test_what_came_back_goes_first_in_its_old_order() -> None:
    lane = Lane[str]()
    for number, name in enumerate("abcd"):
        lane.add(number, name, returned=False)
    for number in (0, 1, 2):
        lane.remove(number)
    lane.add(1, "b", returned=True)
    lane.add(0, "a", returned=True)
    order = []
    while lane:
        order.append(lane.first())
        lane.remove("abcd".index(order[-1]))
    assert order == ["a", "b", "d"]
