/* test_lg_clock.c - three clocks that belong together. */
#include "rig.h"

static void
pair_lies_between_two_readings(void **state)
{
    struct lg_clocks clocks;
    (void)state;
    uint64_t before_ns = lg_now_ns();
    lg_clocks_read(&clocks);
    uint64_t after_ns = lg_now_ns();
    assert_true(clocks.mono_ns >= before_ns && clocks.mono_ns <= after_ns);
    assert_true(clocks.uncertainty_ns <= after_ns - before_ns);
}

static void
wall_and_boot_clock_are_what_they_say(void **state)
{
    struct lg_clocks clocks;
    (void)state;
    time_t before_s = time(NULL);
    lg_clocks_read(&clocks);
    /* time() may lag the clock by one tick */
    assert_true(clocks.real_ns / LG_NS_PER_S >= (uint64_t)before_s);
    assert_true(clocks.real_ns / LG_NS_PER_S <= (uint64_t)time(NULL) + 1);
    assert_true(clocks.boot_ns + LG_NS_PER_S >= clocks.mono_ns);
}

static void
thread_clock_counts_work_and_not_waiting(void **state)
{
    (void)state;
    uint64_t cpu_ns = lg_thread_cpu_ns();
    uint64_t until_ns = lg_now_ns() + 20 * LG_NS_PER_S;
    while (lg_thread_cpu_ns() - cpu_ns < LG_NS_PER_MS) {
        assert_true(lg_now_ns() < until_ns);
    }
    cpu_ns = lg_thread_cpu_ns();
    usleep(50000);
    assert_true(lg_thread_cpu_ns() - cpu_ns < 40 * LG_NS_PER_MS);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pair_lies_between_two_readings),
        cmocka_unit_test(wall_and_boot_clock_are_what_they_say),
        cmocka_unit_test(thread_clock_counts_work_and_not_waiting),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
