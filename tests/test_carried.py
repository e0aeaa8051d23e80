import torch

from odeon.guidance.carried import Carried


def run(levels, value=lambda i: float(i + 1)):
    """The state each call starts from, where every call adds its own value to it."""
    carried, starts = Carried(), []
    for i, sigma in enumerate(levels):
        state = carried.at(torch.full((2,), sigma), torch.zeros(2, 3))
        starts.append(float(state[0, 0]))
        carried.keep(state + value(i))
    return starts


def test_one_call_a_step_goes_on_each_time():
    assert run([8.0, 4.0, 2.0, 1.0]) == [0.0, 1.0, 3.0, 6.0]


def test_calls_at_the_same_or_a_higher_level_start_where_the_first_one_there_did():
    assert run([8.0, 4.0, 4.0, 2.0]) == [0.0, 1.0, 1.0, 3.0]
    assert run([8.0, 4.0, 6.0, 4.0, 2.0]) == [0.0, 1.0, 1.0, 1.0, 3.0]


def test_a_batch_of_another_size_starts_anew_and_nothing_is_read_back():
    carried = Carried()
    for size in (2, 3):
        carried.keep(carried.at(torch.empty(size, device="meta"), torch.empty(size, 4, device="meta")))
    carried = Carried()
    carried.keep(carried.at(torch.ones(2), torch.zeros(2, 4)) + 1.0)
    assert torch.equal(carried.at(torch.full((3,), 0.5), torch.zeros(3, 4)), torch.zeros(3, 4))
