from tritonlm.backend.tally import Counter, Histogram, Monotonic


def test_a_counter_gives_each_amount_once():
    counter = Counter()
    counter.add()
    counter.add(2)
    assert [counter.take(), counter.take()] == [3, 0]


def test_a_histogram_counts_what_is_at_most_each_bound():
    histogram = Histogram((1, 2))
    for value in (0.5, 1, 1.5, 3):
        histogram.observe(value)
    histogram.observe(2, weight=3)
    assert histogram.take() == ([2, 6, 7], 12)
    assert histogram.take() == ([0, 0, 0], 0)


def test_a_histogram_takes_what_was_counted_elsewhere():
    histogram = Histogram((1, 2))
    histogram.observe(5)
    histogram.add([1, 0, 2], 10)
    assert histogram.take() == ([1, 1, 4], 15)


def test_what_starts_again_grows_from_nothing():
    number = Monotonic()
    assert [number.growth(value) for value in (3, 3, 5, 2, 0, 1)] == [3, 0, 2, 2, 0, 1]
