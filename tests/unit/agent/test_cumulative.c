/* test_cumulative.c - many short steps: what opens a window, grows it, ends it. */
#include "../common/rig.h"

#include "cumulative.h"

#define MS LG_NS_PER_MS
#define WINDOW (1000 * MS)
#define LIMIT (200 * MS)

/* A clock and a window; `add` lets `pause` go by, then a step of `ns`. */
struct rig {
    struct lg_cumulative c;
    struct lg_cumulative ended;
    uint64_t now_ns;
};

static enum lg_cumulative_result
add(struct rig *rig, uint64_t ns, uint64_t pause_ns)
{
    rig->now_ns += pause_ns + ns;
    return lg_cumulative_add(&rig->c, WINDOW, LIMIT, rig->now_ns, ns, &rig->ended);
}

static int
begin(void **state)
{
    struct rig *rig = calloc(1, sizeof(*rig));
    rig->now_ns = 77 * LG_NS_PER_S + 3;     /* no round number */
    *state = rig;
    return rig == NULL ? -1 : 0;
}

static int
finish(void **state)
{
    free(*state);
    return 0;
}

static void
twenty_steps_of_15_ms_are_300_ms(void **state)
{
    struct rig *rig = *state;
    int opened = 0;
    for (int i = 0; i < 20; i++) {
        enum lg_cumulative_result result = add(rig, 15 * MS, 5 * MS);
        if (i < 13) {
            assert_int_equal(result, LG_CUMULATIVE_BELOW);
        }
        else {
            assert_int_equal(result, i == 13 ? LG_CUMULATIVE_OPENED : LG_CUMULATIVE_GREW);
            opened += result == LG_CUMULATIVE_OPENED;
            assert_int_equal(rig->c.total_ns, (uint64_t)(i + 1) * 15 * MS);
            assert_int_equal(rig->c.total_steps, i + 1);
        }
    }
    assert_int_equal(opened, 1);
    assert_int_equal(rig->c.total_ns, 300 * MS);
}

static void
sixty_steps_of_8_ms_are_480_ms(void **state)
{
    struct rig *rig = *state;
    for (int i = 0; i < 60; i++) {
        (void)add(rig, 8 * MS, 4 * MS);
    }
    assert_true(rig->c.open);
    assert_int_equal(rig->c.total_ns, 480 * MS);
    assert_int_equal(rig->c.total_steps, 60);
}

static void
limit_itself_is_not_over_it(void **state)
{
    struct rig *rig = *state;
    for (int i = 0; i < 10; i++) {
        assert_int_equal(add(rig, 20 * MS, MS), LG_CUMULATIVE_BELOW);
    }
    assert_int_equal(add(rig, 1, MS), LG_CUMULATIVE_OPENED);
    assert_int_equal(rig->c.total_ns, 200 * MS + 1);
}

static void
slow_drip_never_opens(void **state)
{
    struct rig *rig = *state;
    for (int i = 0; i < 500; i++) {
        assert_int_equal(add(rig, 5 * MS, 45 * MS), LG_CUMULATIVE_BELOW);
        assert_true(rig->c.sum_ns <= 105 * MS);
        assert_int_equal(rig->c.sum_ns, rig->c.steps * 5 * MS);
    }
}

static void
steps_older_than_the_window_are_forgotten(void **state)
{
    struct rig *rig = *state;
    assert_int_equal(add(rig, 150 * MS, 0), LG_CUMULATIVE_BELOW);
    assert_int_equal(add(rig, 40 * MS, WINDOW + WINDOW / 16), LG_CUMULATIVE_BELOW);
    assert_int_equal(rig->c.sum_ns, 40 * MS);
    assert_int_equal(rig->c.steps, 1);
}

static void
very_long_pause_forgets_all(void **state)
{
    struct rig *rig = *state;
    (void)add(rig, 150 * MS, 0);
    assert_int_equal(add(rig, 150 * MS, 3600 * LG_NS_PER_S), LG_CUMULATIVE_BELOW);
    assert_int_equal(rig->c.sum_ns, 150 * MS);
}

static void
open_window_ends_with_the_first_step_after_it(void **state)
{
    struct rig *rig = *state;
    assert_int_equal(add(rig, 150 * MS, 0), LG_CUMULATIVE_BELOW);
    assert_int_equal(add(rig, 60 * MS, 0), LG_CUMULATIVE_OPENED);
    rig->c.id = 5;
    assert_int_equal(add(rig, 30 * MS, 500 * MS), LG_CUMULATIVE_GREW);
    assert_int_equal(add(rig, 10 * MS, 400 * MS), LG_CUMULATIVE_ENDED);
    assert_int_equal(rig->ended.id, 5);
    assert_int_equal(rig->ended.total_ns, 240 * MS);
    assert_int_equal(rig->ended.total_steps, 3);
    assert_false(rig->c.open);
    assert_int_equal(rig->c.sum_ns, 10 * MS);       /* this step begins anew */
}

static void
one_long_stream_makes_one_event_a_window_and_no_time_is_in_two(void **state)
{
    struct rig *rig = *state;
    uint64_t told = 0;
    uint64_t done = 0;
    int ended = 0;
    for (int i = 0; i < 1000; i++) {
        enum lg_cumulative_result result = add(rig, 10 * MS, 5 * MS);
        done += 10 * MS;
        if (result == LG_CUMULATIVE_ENDED) {
            told += rig->ended.total_ns;
            ended++;
        }
    }
    told += rig->c.open ? rig->c.total_ns : rig->c.sum_ns;
    assert_int_equal(told, done);
    assert_in_range(ended, 13, 15);         /* 15 s of windows of a second */
}

static void
start_is_within_a_bucket_of_the_oldest_step(void **state)
{
    struct rig *rig = *state;
    uint64_t first = rig->now_ns;
    for (int i = 0; i < 5; i++) {
        (void)add(rig, 45 * MS, 100 * MS);
    }
    assert_true(rig->c.open);
    assert_true(rig->c.start_ns <= first + 145 * MS);
    assert_true(rig->c.start_ns + WINDOW / LG_CUMULATIVE_BUCKETS >= first + 100 * MS);
}

static void
single_step_over_the_limit_opens_at_its_own_start(void **state)
{
    struct rig *rig = *state;
    assert_int_equal(add(rig, 300 * MS, 0), LG_CUMULATIVE_OPENED);
    assert_true(rig->c.start_ns <= rig->now_ns - 300 * MS);
    assert_int_equal(rig->c.total_steps, 1);
}

static void
window_shorter_than_its_buckets_does_not_divide_by_zero(void **state)
{
    struct rig *rig = *state;
    assert_int_equal(lg_cumulative_add(&rig->c, 7, 5, 1000, 3, &rig->ended), LG_CUMULATIVE_BELOW);
    assert_int_equal(lg_cumulative_add(&rig->c, 7, 5, 1001, 3, &rig->ended), LG_CUMULATIVE_OPENED);
}

static void
random_steps_are_summed_as_by_hand(void **state)
{
    struct rig *rig = *state;
    uint64_t seed = 9;
    struct {
        uint64_t bucket;
        uint64_t ns;
    } all[2000];
    uint64_t bucket_len = WINDOW / LG_CUMULATIVE_BUCKETS;
    for (int i = 0; i < 2000; i++) {
        uint64_t ns = rig_random(&seed) % (6 * MS);
        (void)lg_cumulative_add(&rig->c, WINDOW, UINT64_MAX,
                                rig->now_ns += ns + rig_random(&seed) % (60 * MS), ns, &rig->ended);
        all[i].bucket = rig->now_ns / bucket_len;
        all[i].ns = ns;
        uint64_t sum = 0;
        for (int j = i; j >= 0 && all[j].bucket + LG_CUMULATIVE_BUCKETS > all[i].bucket; j--) {
            sum += all[j].ns;
        }
        assert_int_equal(rig->c.sum_ns, sum);
    }
}

static void
reset_keeps_its_place_in_the_free_list(void **state)
{
    struct rig *rig = *state;
    struct lg_cumulative next;
    rig->c.next_free = &next;
    (void)add(rig, 300 * MS, 0);
    lg_cumulative_reset(&rig->c);
    assert_ptr_equal(rig->c.next_free, &next);
    assert_false(rig->c.open);
    assert_int_equal(rig->c.sum_ns, 0);
}

int
main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, begin, finish)
    const struct CMUnitTest tests[] = {
        T(twenty_steps_of_15_ms_are_300_ms),
        T(sixty_steps_of_8_ms_are_480_ms),
        T(limit_itself_is_not_over_it),
        T(slow_drip_never_opens),
        T(steps_older_than_the_window_are_forgotten),
        T(very_long_pause_forgets_all),
        T(open_window_ends_with_the_first_step_after_it),
        T(one_long_stream_makes_one_event_a_window_and_no_time_is_in_two),
        T(start_is_within_a_bucket_of_the_oldest_step),
        T(single_step_over_the_limit_opens_at_its_own_start),
        T(window_shorter_than_its_buckets_does_not_divide_by_zero),
        T(random_steps_are_summed_as_by_hand),
        T(reset_keeps_its_place_in_the_free_list),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
