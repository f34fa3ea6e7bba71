/* test_deltas.c - what was added to histograms, within a bound. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <string.h>

#include "deltas.h"

#define S UINT64_C(1000000000)

static struct lg_hist before;
static struct lg_hist now;
static uint64_t sums[8][4];             /* by histogram and bucket */

static int
set_up(void **state)
{
    memset(&before, 0, sizeof(before));
    memset(&now, 0, sizeof(now));
    *state = lg_deltas_new(100 * S);
    return *state == NULL ? -1 : 0;
}

static int
tear_down(void **state)
{
    lg_deltas_free(*state);
    return 0;
}

static void
take(void *arg, uint32_t hist, uint32_t bucket, uint64_t count)
{
    (void)arg;
    if (hist < 8 && bucket < 4) {
        sums[hist][bucket] += count;
    }
}

static uint64_t
sum_since(const struct lg_deltas *deltas, uint64_t since_ns, uint32_t hist, uint32_t bucket)
{
    memset(sums, 0, sizeof(sums));
    lg_deltas_walk(deltas, since_ns, take, NULL);
    return sums[hist][bucket];
}

/* Adds `count` to a bucket in a tick of its own. */
static void
tick(struct lg_deltas *deltas, uint64_t at_ns, uint32_t hist, uint32_t bucket, uint64_t count)
{
    before = now;
    now.bucket[bucket] += count;
    assert_true(lg_deltas_add(deltas, hist, &before, &now));
    lg_deltas_tick(deltas, at_ns);
}

static void
only_ticks_of_the_window_are_summed(void **state)
{
    struct lg_deltas *deltas = *state;
    tick(deltas, 101 * S, 3, 2, 5);
    tick(deltas, 102 * S, 3, 2, 7);
    tick(deltas, 103 * S, 3, 1, 9);
    assert_int_equal(sum_since(deltas, 100 * S, 3, 2), 12);
    assert_int_equal(sum_since(deltas, 101 * S, 3, 2), 7);
    assert_int_equal(sum_since(deltas, 102 * S, 3, 1), 9);
    assert_int_equal(sum_since(deltas, 103 * S, 3, 1), 0);
    assert_int_equal(sum_since(deltas, 0, 4, 2), 0);
}

static void
a_window_before_the_first_snapshot_is_not_covered(void **state)
{
    const struct lg_deltas *deltas = *state;
    assert_true(lg_deltas_cover(deltas, 100 * S));
    assert_false(lg_deltas_cover(deltas, 100 * S - 1));
}

static void
a_count_that_goes_back_is_reported_and_not_summed(void **state)
{
    struct lg_deltas *deltas = *state;
    before.bucket[1] = 10;
    now.bucket[1] = 4;
    now.bucket[2] = 3;
    assert_false(lg_deltas_add(deltas, 0, &before, &now));
    lg_deltas_tick(deltas, 101 * S);
    assert_int_equal(sum_since(deltas, 0, 0, 1), 0);
    assert_int_equal(sum_since(deltas, 0, 0, 2), 3);
}

static void
a_full_ring_forgets_the_oldest_and_says_so(void **state)
{
    struct lg_deltas *deltas = *state;
    /* 400 ticks of 432 triples are more than 65,536: some 150 ticks stay. */
    for (uint64_t t = 1; t <= 400; t++) {
        before = now;
        for (uint32_t i = 0; i < LG_HIST_BUCKETS; i++) {
            now.bucket[i]++;
        }
        assert_true(lg_deltas_add(deltas, 1, &before, &now));
        lg_deltas_tick(deltas, (100 + t) * S);
    }
    assert_false(lg_deltas_cover(deltas, 300 * S));
    assert_true(lg_deltas_cover(deltas, 400 * S));
    assert_int_equal(sum_since(deltas, 400 * S, 1, 0), 100);
}

static void
more_ticks_than_places_forget_the_oldest(void **state)
{
    struct lg_deltas *deltas = *state;
    for (uint64_t t = 1; t <= 5000; t++) {
        tick(deltas, (100 + t) * S, 1, 0, 1);
    }
    assert_false(lg_deltas_cover(deltas, 200 * S));
    assert_true(lg_deltas_cover(deltas, 2000 * S));
    assert_int_equal(sum_since(deltas, 2000 * S, 1, 0), 3100);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(only_ticks_of_the_window_are_summed, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_window_before_the_first_snapshot_is_not_covered, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(a_count_that_goes_back_is_reported_and_not_summed, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(a_full_ring_forgets_the_oldest_and_says_so, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(more_ticks_than_places_forget_the_oldest, set_up,
                                        tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
