/* test_cause.c - the split of a stretch into its parts, and who is to blame. */
#include "../common/rig.h"

#include <sys/syscall.h>
#include <time.h>

#include "cause.h"

#define MS LG_NS_PER_MS

static uint64_t
sum(const uint64_t *parts)
{
    uint64_t all = 0;
    for (int i = 0; i < LG_CAUSE_COUNT; i++) {
        all += parts[i];
    }
    return all;
}

static void
each_measured_class_is_the_cause_when_it_is_the_most(void **state)
{
    (void)state;
    struct lg_stretch s[] = {
        {.wall_ns = 100 * MS, .calls.io = 90 * MS},
        {.wall_ns = 100 * MS, .calls.disk = 90 * MS},
        {.wall_ns = 100 * MS, .calls.lock = 90 * MS},
        {.wall_ns = 100 * MS, .calls.gil = 90 * MS},
        {.wall_ns = 100 * MS, .used.cpu_ns = 90 * MS},
        {.wall_ns = 100 * MS, .used.run_delay_ns = 90 * MS},
        {.wall_ns = 100 * MS, .used.cpu_ns = 90 * MS, .gc_ns = 80 * MS},
        {.wall_ns = 100 * MS, .used.major_faults = 900},
        {.wall_ns = 100 * MS},
    };
    const uint32_t cause[] = {LG_CAUSE_IO,  LG_CAUSE_DISK,       LG_CAUSE_LOCK,
                              LG_CAUSE_GIL, LG_CAUSE_CPU,        LG_CAUSE_SCHEDULER,
                              LG_CAUSE_GC,  LG_CAUSE_PAGE_FAULT, LG_CAUSE_UNKNOWN};
    for (size_t i = 0; i < sizeof(s) / sizeof(s[0]); i++) {
        uint64_t parts[LG_CAUSE_COUNT];
        assert_int_equal(lg_cause_decide(&s[i], parts), cause[i]);
        assert_int_equal(sum(parts), 100 * MS);
    }
}

static void
parts_sum_to_the_wall_whatever_was_measured(void **state)
{
    uint64_t seed = 4;
    (void)state;
    for (int i = 0; i < 20000; i++) {
        struct lg_votes votes = {
            .cpu = (uint32_t)(rig_random(&seed) % 4),
            .io = (uint32_t)(rig_random(&seed) % 4),
            .disk = (uint32_t)(rig_random(&seed) % 4),
            .lock = (uint32_t)(rig_random(&seed) % 4),
            .gil = (uint32_t)(rig_random(&seed) % 4),
        };
        struct lg_stretch s = {
            .wall_ns = rig_random(&seed) % (200 * MS),
            .calls = {rig_random(&seed) % (90 * MS), rig_random(&seed) % (90 * MS),
                      rig_random(&seed) % (90 * MS), rig_random(&seed) % (90 * MS)},
            .used = {rig_random(&seed) % (90 * MS),
                     i % 5 == 0 ? LG_NONE : rig_random(&seed) % (90 * MS), rig_random(&seed) % 16},
            .gc_ns = rig_random(&seed) % (90 * MS),
            .gc_cpu_ns = i % 2 ? rig_random(&seed) % (90 * MS) : 0,
            .votes = i % 3 ? &votes : NULL,
        };
        uint64_t parts[LG_CAUSE_COUNT];
        uint32_t cause = lg_cause_decide(&s, parts);
        assert_int_equal(sum(parts), s.wall_ns);
        assert_true(cause == LG_CAUSE_UNKNOWN || cause < LG_CAUSE_OTHER);
    }
}

static void
cpu_within_a_hooked_call_is_not_counted_twice(void **state)
{
    uint64_t parts[LG_CAUSE_COUNT];
    struct lg_stretch s = {.wall_ns = 100 * MS, .calls.disk = 95 * MS, .used.cpu_ns = 60 * MS};
    (void)state;
    assert_int_equal(lg_cause_decide(&s, parts), LG_CAUSE_DISK);
    assert_int_equal(parts[LG_CAUSE_DISK], 95 * MS);
    assert_int_equal(parts[LG_CAUSE_CPU], 5 * MS);
}

static void
collector_is_a_part_of_the_cpu_time(void **state)
{
    uint64_t parts[LG_CAUSE_COUNT];
    struct lg_stretch s = {.wall_ns = 100 * MS, .used.cpu_ns = 80 * MS, .gc_ns = 30 * MS};
    (void)state;
    assert_int_equal(lg_cause_decide(&s, parts), LG_CAUSE_CPU);
    assert_int_equal(parts[LG_CAUSE_GC], 30 * MS);
    assert_int_equal(parts[LG_CAUSE_CPU], 50 * MS);
}

static void
few_faults_explain_nothing(void **state)
{
    uint64_t parts[LG_CAUSE_COUNT];
    struct lg_stretch s = {.wall_ns = 100 * MS, .used = {.major_faults = 7}};
    (void)state;
    assert_int_equal(lg_cause_decide(&s, parts), LG_CAUSE_UNKNOWN);
    assert_int_equal(parts[LG_CAUSE_OTHER], 100 * MS);
}

static void
votes_share_out_only_what_nothing_measured(void **state)
{
    uint64_t parts[LG_CAUSE_COUNT];
    struct lg_votes votes = {.io = 3, .cpu = 1};
    struct lg_stretch s = {.wall_ns = 100 * MS, .used.cpu_ns = 20 * MS, .votes = &votes};
    (void)state;
    assert_int_equal(lg_cause_decide(&s, parts), LG_CAUSE_IO);
    assert_int_equal(parts[LG_CAUSE_IO], 60 * MS);
    assert_int_equal(parts[LG_CAUSE_CPU], 20 * MS);
    assert_int_equal(parts[LG_CAUSE_OTHER], 20 * MS);
    votes = (struct lg_votes){.cpu = 8};
    assert_int_equal(lg_cause_decide(&s, parts), LG_CAUSE_UNKNOWN);
    assert_int_equal(parts[LG_CAUSE_OTHER], 80 * MS);
}

static void
gil_and_run_queue_are_done_to_it_by_others(void **state)
{
    uint64_t parts[LG_CAUSE_COUNT] = {1, 2, 4, 8, 16, 32, 64, 128, 256};
    (void)state;
    assert_int_equal(lg_cause_own_ns(parts), 1 + 2 + 4 + 16 + 64 + 128 + 256);
}

static void
meter_is_due_after_a_quarter_of_a_millisecond_of_work(void **state)
{
    struct lg_meter meter = {0};
    (void)state;
    assert_false(lg_meter_due(&meter, 100000));
    assert_false(lg_meter_due(&meter, 100000));
    assert_true(lg_meter_due(&meter, 50000));
}

static void
meter_tells_cpu_from_sleep(void **state)
{
    struct lg_meter meter;
    struct lg_used used;
    (void)state;
    lg_meter_open(&meter, (pid_t)syscall(SYS_gettid));
    uint64_t start = lg_now_ns();
    uint64_t cpu = lg_thread_cpu_ns();
    while (lg_thread_cpu_ns() - cpu < 20 * MS) {}
    lg_meter_stretch(&meter, lg_now_ns() - start, &used);
    assert_in_range(used.cpu_ns, 19 * MS, 25 * MS);

    start = lg_now_ns();
    struct timespec nap = {.tv_nsec = 20 * (long)MS};
    nanosleep(&nap, NULL);
    lg_meter_stretch(&meter, lg_now_ns() - start, &used);
    assert_true(used.cpu_ns < 5 * MS);
    lg_meter_close(&meter);
    assert_int_equal(meter.schedstat_fd, -1);
}

static void
work_before_the_stretch_is_taken_out_of_its_cpu_time(void **state)
{
    struct lg_meter meter;
    struct lg_used used;
    (void)state;
    lg_meter_open(&meter, (pid_t)syscall(SYS_gettid));
    uint64_t cpu = lg_thread_cpu_ns();
    while (lg_thread_cpu_ns() - cpu < 10 * MS) {}
    meter.unread_ns = 10 * MS;
    uint64_t start = lg_now_ns();
    lg_meter_stretch(&meter, lg_now_ns() - start, &used);
    assert_true(used.cpu_ns < MS);
    lg_meter_close(&meter);
}

static void
thread_that_is_not_there_has_no_run_delay(void **state)
{
    (void)state;
    assert_int_equal(lg_schedstat_open(0x7ffffff0), -1);
    assert_int_equal(lg_schedstat_run_delay(-1), LG_NONE);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_measured_class_is_the_cause_when_it_is_the_most),
        cmocka_unit_test(parts_sum_to_the_wall_whatever_was_measured),
        cmocka_unit_test(cpu_within_a_hooked_call_is_not_counted_twice),
        cmocka_unit_test(collector_is_a_part_of_the_cpu_time),
        cmocka_unit_test(few_faults_explain_nothing),
        cmocka_unit_test(votes_share_out_only_what_nothing_measured),
        cmocka_unit_test(gil_and_run_queue_are_done_to_it_by_others),
        cmocka_unit_test(meter_is_due_after_a_quarter_of_a_millisecond_of_work),
        cmocka_unit_test(meter_tells_cpu_from_sleep),
        cmocka_unit_test(work_before_the_stretch_is_taken_out_of_its_cpu_time),
        cmocka_unit_test(thread_that_is_not_there_has_no_run_delay),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
