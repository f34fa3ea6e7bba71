/* test_threshold.c - calibrated and adaptive thresholds, from exact step times. */
#include "../common/rig.h"

#include "settings.h"
#include "threshold.h"

#define MS LG_NS_PER_MS

static struct lg_settings
settings(uint32_t adaptive)
{
    return (struct lg_settings){
        .config = {.threshold_ns = 50 * MS, .adaptive = adaptive},
        .monitor_interval_ns = 10 * MS,
        .adaptive_update_interval_ns = 1000 * MS,
        .threshold_multiplier = 5.0,
        .adaptive_percentile = 0.95,
        .calibration_iterations = 100,
        .adaptive_window_size = 200,
        .adaptive_min_samples = 100,
    };
}

static void
fixed_threshold_keeps_nothing(void **state)
{
    struct lg_settings s = settings(0);
    (void)state;
    assert_null(lg_threshold_open(&s));
    lg_threshold_close(NULL);
}

static void
calibrated_once_to_the_median_times_the_multiplier(void **state)
{
    struct lg_settings s = settings(1);
    struct lg_threshold *t = lg_threshold_open(&s);
    (void)state;
    for (int i = 0; i < 100; i++) {
        assert_int_equal(lg_threshold_decide(t, &s, 0), 0);
        lg_threshold_add(t, i < 20 ? 40 * MS : 4 * MS);     /* start-up is slow */
    }
    assert_int_equal(lg_threshold_decide(t, &s, 0), 20 * MS);
    for (int i = 0; i < 500; i++) {
        lg_threshold_add(t, 9 * MS);
        assert_int_equal(lg_threshold_decide(t, &s, (uint64_t)i * 1000 * MS), 0);
    }
    lg_threshold_close(t);
}

static void
calibrated_threshold_stays_between_monitor_interval_and_fallback(void **state)
{
    const struct {
        uint64_t step_ns;
        uint64_t threshold_ns;
    } cases[] = {{1000, 10 * MS}, {30 * MS, 50 * MS}, {0, 10 * MS}, {UINT64_MAX, 50 * MS}};
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct lg_settings s = settings(1);
        struct lg_threshold *t = lg_threshold_open(&s);
        for (int n = 0; n < 100; n++) {
            lg_threshold_add(t, cases[i].step_ns);
        }
        assert_int_equal(lg_threshold_decide(t, &s, 0), cases[i].threshold_ns);
        lg_threshold_close(t);
    }
}

static void
adaptive_threshold_follows_the_percentile_at_its_interval(void **state)
{
    struct lg_settings s = settings(2);
    struct lg_threshold *t = lg_threshold_open(&s);
    (void)state;
    for (int i = 0; i < 100; i++) {
        lg_threshold_add(t, 2 * MS);
    }
    assert_int_equal(lg_threshold_decide(t, &s, 5000 * MS), 10 * MS);
    for (int i = 0; i < 200; i++) {
        lg_threshold_add(t, (i < 185 ? 2 : 7) * MS);    /* the 95th of a hundred is 7 */
    }
    assert_int_equal(lg_threshold_decide(t, &s, 5999 * MS), 0);
    assert_int_equal(lg_threshold_decide(t, &s, 6000 * MS), 35 * MS);
    assert_int_equal(lg_threshold_decide(t, &s, 6001 * MS), 0);
    for (int i = 0; i < 200; i++) {
        lg_threshold_add(t, MS);                        /* the old ones have left the window */
    }
    assert_int_equal(lg_threshold_decide(t, &s, 7000 * MS), 10 * MS);
    lg_threshold_close(t);
}

static void
adaptive_threshold_waits_for_enough_samples(void **state)
{
    struct lg_settings s = settings(2);
    s.adaptive_min_samples = 150;
    struct lg_threshold *t = lg_threshold_open(&s);
    (void)state;
    for (int i = 0; i < 100; i++) {
        lg_threshold_add(t, 4 * MS);
    }
    assert_int_equal(lg_threshold_decide(t, &s, 0), 20 * MS);
    for (int i = 0; i < 49; i++) {
        lg_threshold_add(t, 8 * MS);
    }
    assert_int_equal(lg_threshold_decide(t, &s, 9000 * MS), 0);
    lg_threshold_add(t, 8 * MS);
    assert_int_equal(lg_threshold_decide(t, &s, 9000 * MS), 40 * MS);
    lg_threshold_close(t);
}

static void
window_is_never_smaller_than_the_calibration_needs(void **state)
{
    struct lg_settings s = settings(2);
    s.calibration_iterations = 1000;
    struct lg_threshold *t = lg_threshold_open(&s);
    (void)state;
    for (int i = 0; i < 1000; i++) {
        lg_threshold_add(t, 4 * MS);
    }
    assert_int_equal(lg_threshold_decide(t, &s, 0), 20 * MS);
    lg_threshold_close(t);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fixed_threshold_keeps_nothing),
        cmocka_unit_test(calibrated_once_to_the_median_times_the_multiplier),
        cmocka_unit_test(calibrated_threshold_stays_between_monitor_interval_and_fallback),
        cmocka_unit_test(adaptive_threshold_follows_the_percentile_at_its_interval),
        cmocka_unit_test(adaptive_threshold_waits_for_enough_samples),
        cmocka_unit_test(window_is_never_smaller_than_the_calibration_needs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
