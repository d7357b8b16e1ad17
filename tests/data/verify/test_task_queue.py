"""The order in which the answers of a call are graded."""

from ceeh.data.verify.task_queue import TaskQueue


def test_questions_alternate_and_those_with_a_slow_answer_come_last():
    tasks = [("a", "1"), ("a", "2"), ("a", "3"), ("b", "1"), ("b", "2"), ("c", "1")]
    queue = TaskQueue(tasks, lambda task: task[0])
    order = [queue.next(), queue.next()]
    queue.slow.add("a")
    order += [queue.next() for _ in range(queue.num_waiting)]
    assert order == [0, 3, 5, 4, 1, 2]  # a1 b1, then c1 b2 before the rest of a
