/*
 * test_model.c - the model over a real segment that this test writes.
 *
 * The segment is made by lg_segment_create() in a folder of this test, so it
 * is alive as long as the test is. The model's clock is set by hand.
 */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../common/lg_clock.h"
#include "../common/lg_copy.h"
#include "../common/lg_hist.h"
#include "../common/lg_segment.h"
#include "../common/lg_seqlock.h"
#include "model.h"
#include "model_private.h"

#define MS LG_NS_PER_MS
#define S LG_NS_PER_S

struct scene {
    char dir[64];
    struct lg_segment seg;
    struct lg_top *top;
    struct lg_loop_entry *loop;
    uint32_t endpoint;
    uint64_t now;
};

/* Slot 1 of ENDPOINTS: "GET <name>". */
static uint32_t
add_endpoint(struct lg_segment *seg, const char *name)
{
    uint32_t index = (uint32_t)seg->tables->endpoints_used;
    uint32_t id = lg_strings_append(seg, name, strlen(name));
    seg->endpoints[index].key = LG_ENDPOINT_KEY(id, LG_KIND_REQUEST, LG_METHOD_GET);
    seg->tables->endpoints_used = index + 1;
    return index;
}

static int
set_up(void **state)
{
    static struct scene scene;
    struct lg_segment_options options = {.config = {.threshold_ns = 50 * MS}};
    memset(&scene, 0, sizeof(scene));
    snprintf(scene.dir, sizeof(scene.dir), "/dev/shm/lg-test-model.%d", (int)getpid());
    if (mkdtemp(strcat(scene.dir, ".XXXXXX")) == NULL) {
        return -1;
    }
    options.dir = scene.dir;
    assert_int_equal(lg_segment_create(&options, &scene.seg), 0);
    scene.now = lg_now_ns();
    scene.endpoint = add_endpoint(&scene.seg, "/x");
    scene.loop = &scene.seg.loops[0];
    scene.seg.tables->loops_used = 1;
    scene.loop->state = LG_LOOP_IDLE;
    scene.loop->threshold_ns = 50 * MS;
    scene.loop->heartbeat_ns = scene.now;
    scene.loop->created_ns = scene.now;
    scene.seg.anchor->mono_ns = scene.now;
    scene.seg.anchor->real_ns = 1000 * S;
    assert_int_equal(lg_copy_guard(), 0);
    assert_int_equal(lg_top_new(&scene.top), 0);
    scene.top->private->frozen = true;
    scene.top->private->frozen_ns = scene.now;
    struct lg_source source;
    struct lg_problem problem;
    assert_int_equal(lg_find_file(scene.seg.path, &source, &problem), 0);
    assert_int_equal(lg_top_add(scene.top, &source, &problem), 0);
    lg_top_refresh(scene.top);
    *state = &scene;
    return 0;
}

static int
tear_down(void **state)
{
    struct scene *scene = *state;
    lg_top_free(scene->top);
    lg_segment_close(&scene->seg, false);
    return rmdir(scene->dir);
}

/* Time goes on, for the clock and for the watchdog. */
static void
advance(struct scene *scene, uint64_t ns)
{
    scene->now += ns;
    scene->top->private->frozen_ns = scene->now;
    scene->loop->heartbeat_ns = scene->now;
    lg_top_refresh(scene->top);
}

static void
add_step(struct scene *scene, uint64_t ns)
{
    struct lg_endpoint *e = &scene->seg.endpoints[scene->endpoint];
    lg_hist_add(&scene->seg.hists[LG_HIST_ON_LOOP(scene->endpoint)], ns);
    e->steps++;
    e->step_max_ns = ns > e->step_max_ns ? ns : e->step_max_ns;
}

static struct lg_row
row_of(struct scene *scene, enum lg_window window)
{
    struct lg_view view = {.window = window};
    const struct lg_row *rows;
    assert_int_equal(lg_top_rows(scene->top, 0, &view, &rows), 1);
    assert_string_equal(rows[0].key.name, "/x");
    return rows[0];
}

static void
a_living_segment_is_seen_as_such(void **state)
{
    struct scene *scene = *state;
    const struct lg_worker *w = scene->top->workers[0];
    assert_int_equal(w->state, LG_WORKER_LIVE);
    assert_int_equal(w->pid, getpid());
    assert_int_equal(w->blocked.active, false);
    assert_int_equal(w->heartbeat_age_ns, 0);
}

static void
quantiles_of_a_window_come_from_what_was_added_while_we_watched(void **state)
{
    struct scene *scene = *state;
    for (int i = 0; i < 100; i++) {
        add_step(scene, 400 * MS);          /* before the window */
    }
    advance(scene, 1 * S);
    advance(scene, 11 * S);
    for (int i = 0; i < 100; i++) {
        add_step(scene, 2 * MS);
    }
    advance(scene, 1 * S);
    struct lg_row row = row_of(scene, LG_WINDOW_10S);
    assert_int_equal(row.now.step.source, LG_QUANTILE_HISTOGRAM);
    assert_int_equal(row.now.step.p50_us, lg_hist_hi_us(lg_hist_index(2000)));
    assert_int_equal(row.now.step.p99_us, lg_hist_hi_us(lg_hist_index(2000)));
    assert_int_equal(lg_hist_total(row.step_hist), 100);
    row = row_of(scene, LG_WINDOW_TOTAL);
    assert_int_equal(row.now.step.source, LG_QUANTILE_TOTAL);
    assert_int_equal(row.now.step.p99_us, 400000);
}

static void
a_step_counted_after_its_counter_is_not_lost(void **state)
{
    struct scene *scene = *state;
    scene->seg.endpoints[scene->endpoint].steps++;      /* seen before the bucket */
    advance(scene, 1 * S);
    lg_hist_add(&scene->seg.hists[LG_HIST_ON_LOOP(scene->endpoint)], 3 * MS);
    advance(scene, 1 * S);
    assert_int_equal(lg_hist_total(row_of(scene, LG_WINDOW_TOTAL).step_hist), 1);
}

static void
lag_quantiles_of_a_window_are_known_after_that_long(void **state)
{
    struct scene *scene = *state;
    const struct lg_worker *w = scene->top->workers[0];
    advance(scene, 9 * S);
    assert_int_equal(w->sum[LG_WINDOW_10S].lag.source, LG_QUANTILE_NONE);
    lg_hist_add(&scene->seg.hists[LG_HIST_LAG(scene->seg.endpoint_count, 0)], 7 * MS);
    advance(scene, 2 * S);
    assert_int_equal(w->sum[LG_WINDOW_10S].lag.source, LG_QUANTILE_HISTOGRAM);
    assert_int_equal(w->sum[LG_WINDOW_10S].lag.p50_us, lg_hist_hi_us(lg_hist_index(7000)));
}

static void
a_base_line_hides_what_was_before(void **state)
{
    struct scene *scene = *state;
    struct lg_endpoint *e = &scene->seg.endpoints[scene->endpoint];
    e->requests = 100;
    e->blocks = 4;
    e->blocked_ns = 900 * MS;
    add_step(scene, 400 * MS);
    advance(scene, 1 * S);
    lg_top_zero(scene->top, true);
    e->requests += 5;
    e->blocks += 1;
    e->blocked_ns += 60 * MS;
    add_step(scene, 60 * MS);
    advance(scene, 1 * S);
    struct lg_row row = row_of(scene, LG_WINDOW_TOTAL);
    assert_int_equal(row.now.requests, 5);
    assert_int_equal(row.now.blocks, 1);
    assert_int_equal(row.now.blocked_ns, 60 * MS);
    assert_in_range(row.now.max_ns, 60 * MS, 64 * MS);      /* its bucket's upper edge */
    assert_int_equal(lg_hist_total(row.step_hist), 1);
    assert_int_not_equal(lg_top_zeroed_real_ns(scene->top), 0);
    lg_top_zero(scene->top, false);
    assert_int_equal(row_of(scene, LG_WINDOW_TOTAL).now.requests, 105);
    assert_int_equal(lg_top_zeroed_real_ns(scene->top), 0);
}

static void
start_step(struct scene *scene, uint64_t step)
{
    lg_seq_begin(&scene->loop->seq);
    scene->loop->state = LG_LOOP_STEP;
    scene->loop->step = step;
    scene->loop->step_start_ns = scene->now;
    scene->loop->endpoint_task = LG_PAIR(scene->endpoint, 0);
    lg_seq_end(&scene->loop->seq);
    scene->loop->awake_since_ns = scene->now;
}

static void
end_step(struct scene *scene)
{
    lg_seq_begin(&scene->loop->seq);
    scene->loop->state = LG_LOOP_IDLE;
    lg_seq_end(&scene->loop->seq);
    scene->loop->awake_since_ns = 0;
    scene->loop->iterations++;
}

static void
the_banner_follows_a_block_from_its_threshold_to_its_end(void **state)
{
    struct scene *scene = *state;
    const struct lg_worker *w = scene->top->workers[0];
    start_step(scene, 1);
    advance(scene, 40 * MS);
    assert_int_equal(w->banner.kind, LG_BANNER_NONE);
    advance(scene, 20 * MS);
    assert_int_equal(w->banner.kind, LG_BANNER_BLOCKED);
    assert_int_equal(w->banner.ns, 60 * MS);
    assert_false(w->banner.alarm);
    uint64_t changed = w->banner.changed;
    advance(scene, 940 * MS);
    assert_true(w->banner.alarm);
    assert_int_equal(w->banner.changed, changed);           /* the same block */
    assert_int_equal(w->lag_now_ns, 1000 * MS);
    assert_true(w->lag_high);
    assert_ptr_equal(lg_top_banner(scene->top), &w->banner);

    struct lg_stall *stall = &scene->seg.stalls[0];
    stall->ticket = 1;
    stall->info = LG_STALL_INFO(LG_STALL_STEP, LG_CAUSE_CPU, 0, 0);
    stall->step = 1;
    stall->start_ns = scene->now - 1000 * MS;
    stall->duration_ns = 1000 * MS;
    stall->endpoint_holder = LG_PAIR(scene->endpoint, 0);
    scene->seg.tables->stalls_head = 1;
    end_step(scene);
    advance(scene, 100 * MS);
    assert_int_equal(w->banner.kind, LG_BANNER_ENDED);
    assert_int_equal(w->banner.ns, 1000 * MS);
    assert_string_equal(w->blocked.key.name, "/x");
    assert_true(w->banner.changed > changed);
    advance(scene, 5 * S);
    assert_int_equal(w->banner.kind, LG_BANNER_NONE);
}

static void
the_fast_lane_sees_a_block_without_a_whole_refresh(void **state)
{
    struct scene *scene = *state;
    start_step(scene, 1);
    scene->now += 70 * MS;
    scene->top->private->frozen_ns = scene->now;
    assert_true(lg_top_refresh_banner(scene->top));
    assert_int_equal(lg_top_banner(scene->top)->kind, LG_BANNER_BLOCKED);
    assert_false(lg_top_refresh_banner(scene->top));        /* nothing new in the same moment */
}

static void
no_heartbeat_is_told_after_two_seconds(void **state)
{
    struct scene *scene = *state;
    const struct lg_worker *w = scene->top->workers[0];
    scene->top->private->frozen_ns = scene->now + 1900 * MS;
    lg_top_refresh(scene->top);
    assert_int_equal(w->state, LG_WORKER_LIVE);
    scene->top->private->frozen_ns = scene->now + 2100 * MS;
    lg_top_refresh(scene->top);
    assert_int_equal(w->state, LG_WORKER_STALE);
    assert_int_equal(w->banner.kind, LG_BANNER_NO_HEARTBEAT);
}

static void
bands_of_the_detail_hold_every_step_once(void **state)
{
    static const size_t counts[] = {
        [LG_BANDS_MEDIUM] = 12, [LG_BANDS_COARSE] = 7, [LG_BANDS_FINE] = 14};
    struct scene *scene = *state;
    struct lg_view view = {.window = LG_WINDOW_TOTAL};
    for (uint64_t us = 1; us < 8000000; us *= 2) {
        add_step(scene, us * 1000);
    }
    advance(scene, 1 * S);
    struct lg_key key = row_of(scene, LG_WINDOW_TOTAL).key;
    for (int set = LG_BANDS_MEDIUM; set <= LG_BANDS_FINE; set++) {
        const struct lg_detail *d;
        uint64_t sum = 0;
        assert_true(lg_top_detail(scene->top, 0, &view, &key, (enum lg_band_set)set,
                                  LG_STACKS_BY_TIME, &d));
        assert_int_equal(d->band_count, counts[set]);
        for (size_t i = 0; i < d->band_count; i++) {
            sum += d->band[i].count;
            assert_true(i == 0 || d->band[i].lo_us == d->band[i - 1].hi_us);
        }
        assert_int_equal(sum, 23);
        assert_int_equal(d->band[d->band_count - 1].hi_us, LG_NONE);
    }
    key.name = "/elsewhere";
    const struct lg_detail *none;
    assert_false(
        lg_top_detail(scene->top, 0, &view, &key, LG_BANDS_FINE, LG_STACKS_BY_TIME, &none));
}

static void
requests_are_read_on_as_they_come_and_lapped_ones_counted(void **state)
{
    struct scene *scene = *state;
    struct lg_ring_writer ring;
    struct lg_ring *head = &scene->seg.rings[LG_RING_EVENTS];
    lg_ring_init(&ring, head, scene->seg.slots, head->first_slot, head->capacity, LG_RING_RARE);
    uint64_t tag = LG_TAG(LG_REC_MARK, 0, 0, 0);
    for (uint64_t i = 0; i < 10; i++) {
        lg_ring_push(&ring, scene->now, tag, 0, 0, 0, 0, 0);
    }
    advance(scene, 1 * S);
    const struct lg_worker *w = scene->top->workers[0];
    assert_int_equal(w->snap->rings[LG_RING_EVENTS].to, 10);
    assert_int_equal(w->lost_events, 0);
    for (uint64_t i = 0; i < 3 * head->capacity; i++) {
        lg_ring_push(&ring, scene->now, tag, 0, 0, 0, 0, 0);
    }
    advance(scene, 1 * S);
    assert_int_equal(w->snap->rings[LG_RING_EVENTS].to, 10 + 3 * head->capacity);
    assert_true(w->lost_events >= 2 * head->capacity);
}

static void
the_same_file_is_not_taken_in_twice(void **state)
{
    struct scene *scene = *state;
    struct lg_source source;
    struct lg_problem problem;
    assert_int_equal(lg_find_file(scene->seg.path, &source, &problem), 0);
    assert_int_equal(lg_top_add(scene->top, &source, &problem), 0);
    assert_int_equal(scene->top->worker_count, 1);
    assert_int_equal(source.fd, -1);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_living_segment_is_seen_as_such),
        TEST(quantiles_of_a_window_come_from_what_was_added_while_we_watched),
        TEST(a_step_counted_after_its_counter_is_not_lost),
        TEST(lag_quantiles_of_a_window_are_known_after_that_long),
        TEST(a_base_line_hides_what_was_before),
        TEST(the_banner_follows_a_block_from_its_threshold_to_its_end),
        TEST(the_fast_lane_sees_a_block_without_a_whole_refresh),
        TEST(no_heartbeat_is_told_after_two_seconds),
        TEST(bands_of_the_detail_hold_every_step_once),
        TEST(requests_are_read_on_as_they_come_and_lapped_ones_counted),
        TEST(the_same_file_is_not_taken_in_twice),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
