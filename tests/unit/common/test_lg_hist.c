/* test_lg_hist.c - buckets, edges and quantiles of the log-linear histogram. */
#include "rig.h"

#include <math.h>

#include "lg_hist.h"

static void
every_bucket_holds_what_its_edges_say(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < LG_HIST_BUCKETS; i++) {
        assert_int_equal(lg_hist_index(lg_hist_lo_us(i)), i);
        assert_int_equal(lg_hist_index(lg_hist_hi_us(i) - 1), i);
        assert_true(i == 0 || lg_hist_lo_us(i) == lg_hist_hi_us(i - 1));
    }
    assert_int_equal(lg_hist_lo_us(0), 0);
    assert_int_equal(lg_hist_hi_us(LG_HIST_BUCKETS - 1), LG_HIST_MAX_US + 1);
}

static void
no_bucket_is_wider_than_a_sixteenth_of_its_lower_edge(void **state)
{
    (void)state;
    for (uint32_t i = 16; i < LG_HIST_BUCKETS; i++) {
        uint64_t width = lg_hist_hi_us(i) - lg_hist_lo_us(i);
        assert_true(width * 16 <= lg_hist_lo_us(i));
    }
}

static void
values_beyond_the_last_bucket_fall_into_it_and_are_told(void **state)
{
    struct lg_hist hist = {0};
    (void)state;
    assert_true(lg_hist_add(&hist, LG_HIST_MAX_US * 1000));
    assert_false(lg_hist_add(&hist, (LG_HIST_MAX_US + 1) * 1000));
    assert_false(lg_hist_add(&hist, UINT64_MAX));
    assert_int_equal(hist.bucket[LG_HIST_BUCKETS - 1], 3);
}

static void
quantiles_are_upper_edges(void **state)
{
    struct lg_hist hist = {0};
    (void)state;
    for (uint64_t us = 1; us <= 10; us++) {
        lg_hist_add(&hist, us * 1000);
    }
    assert_int_equal(lg_hist_quantile_us(&hist, 0.1), 2);   /* the value 1 */
    assert_int_equal(lg_hist_quantile_us(&hist, 0.5), 6);   /* the value 5 */
    assert_int_equal(lg_hist_quantile_us(&hist, 1.0), 11);  /* the value 10 */
}

static void
quantile_reads_high_by_a_sixteenth_at_most(void **state)
{
    (void)state;
    for (uint64_t us = 16; us < 1000000; us += us / 7) {
        struct lg_hist hist = {0};
        lg_hist_add(&hist, us * 1000);
        uint64_t read = lg_hist_quantile_us(&hist, 0.99);
        assert_true(read > us && (read - us) * 16 <= us);
    }
}

static void
rounding_of_the_rank_does_not_skip_a_value(void **state)
{
    struct lg_hist hist = {0};
    (void)state;
    hist.bucket[1] = 7;
    hist.bucket[2] = 93;
    assert_int_equal(lg_hist_quantile_us(&hist, 0.07), 2);  /* 0.07 * 100 > 7 in binary */
}

static void
empty_histogram_has_no_quantile(void **state)
{
    struct lg_hist hist = {0};
    (void)state;
    assert_int_equal(lg_hist_quantile_us(&hist, 0.5), LG_NONE);
}

static void
senseless_fractions_give_the_first_or_last_value(void **state)
{
    struct lg_hist hist = {0};
    (void)state;
    hist.bucket[3] = 1;
    hist.bucket[5] = 1;
    assert_int_equal(lg_hist_quantile_us(&hist, -1), 4);
    assert_int_equal(lg_hist_quantile_us(&hist, (double)NAN), 4);
    assert_int_equal(lg_hist_quantile_us(&hist, 7), 6);
}

static void
difference_of_two_snapshots_is_a_histogram(void **state)
{
    struct lg_hist then = {0};
    struct lg_hist now = {0};
    struct lg_hist out;
    (void)state;
    then.bucket[4] = 2;
    now.bucket[4] = 5;
    now.bucket[9] = 1;
    assert_true(lg_hist_subtract(&now, &then, &out));
    assert_int_equal(out.bucket[4], 3);
    assert_int_equal(lg_hist_total(&out), 4);
}

static void
shrunk_bucket_gives_an_empty_difference(void **state)
{
    struct lg_hist then = {0};
    struct lg_hist now = {0};
    struct lg_hist out;
    (void)state;
    now.bucket[1] = 100;
    then.bucket[4] = 1;
    assert_false(lg_hist_subtract(&now, &then, &out));
    assert_int_equal(lg_hist_total(&out), 0);
}

static void
sums_saturate_instead_of_wrapping(void **state)
{
    struct lg_hist a = {0};
    struct lg_hist b = {0};
    (void)state;
    a.bucket[1] = UINT64_MAX;
    b.bucket[1] = 1;
    b.bucket[2] = 1;
    lg_hist_merge(&a, &b);
    assert_int_equal(a.bucket[1], UINT64_MAX);
    assert_int_equal(lg_hist_total(&a), UINT64_MAX);
    assert_int_equal(lg_hist_quantile_us(&a, 1.0), 2);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_bucket_holds_what_its_edges_say),
        cmocka_unit_test(no_bucket_is_wider_than_a_sixteenth_of_its_lower_edge),
        cmocka_unit_test(values_beyond_the_last_bucket_fall_into_it_and_are_told),
        cmocka_unit_test(quantiles_are_upper_edges),
        cmocka_unit_test(quantile_reads_high_by_a_sixteenth_at_most),
        cmocka_unit_test(rounding_of_the_rank_does_not_skip_a_value),
        cmocka_unit_test(empty_histogram_has_no_quantile),
        cmocka_unit_test(senseless_fractions_give_the_first_or_last_value),
        cmocka_unit_test(difference_of_two_snapshots_is_a_histogram),
        cmocka_unit_test(shrunk_bucket_gives_an_empty_difference),
        cmocka_unit_test(sums_saturate_instead_of_wrapping),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
