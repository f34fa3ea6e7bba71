/* test_record.c - names, counters, history and records of the segment's writer. */
#include "rig_agent.h"

#include <pthread.h>

#define ENDPOINTS 16

static int
begin(void **state)
{
    struct rig_recorder *rig = calloc(1, sizeof(*rig));
    rig_recorder_open(rig, ENDPOINTS);
    *state = rig;
    return 0;
}

static int
finish(void **state)
{
    rig_recorder_close(*state);
    free(*state);
    return 0;
}

static uint32_t
endpoint(struct rig_recorder *rig, const char *name)
{
    int i = lg_record_endpoint(&rig->rec, LG_KIND_REQUEST, LG_METHOD_GET, name, strlen(name), 1,
                               LG_WAIT);
    assert_true(i >= 0);
    return (uint32_t)i;
}

static const char *
string(const struct rig_recorder *rig, uint32_t id)
{
    return (const char *)rig->rec.seg.strings + (size_t)id * 8 + 2;
}

static void
other_and_loop_exist_from_the_start(void **state)
{
    struct rig_recorder *rig = *state;
    const struct lg_segment *seg = &rig->rec.seg;
    assert_int_equal(seg->tables->endpoints_used, 2);
    assert_string_equal(string(rig, LG_KEY_NAME(seg->endpoints[0].key)), "(other)");
    assert_string_equal(string(rig, LG_KEY_NAME(seg->endpoints[1].key)), "(loop)");
    assert_int_equal(LG_KEY_KIND(seg->endpoints[1].key), LG_KIND_LOOP);
}

static void
string_is_stored_once(void **state)
{
    struct rig_recorder *rig = *state;
    uint32_t a = lg_record_string(&rig->rec, "/items/{id}", 11, LG_WAIT);
    uint64_t used = rig->rec.seg.tables->strings_used;
    assert_int_equal(lg_record_string(&rig->rec, "/items/{id}", 11, LG_TRY), a);
    assert_int_equal(rig->rec.seg.tables->strings_used, used);
    assert_string_equal(string(rig, a), "/items/{id}");
    assert_int_not_equal(lg_record_string(&rig->rec, "/items/{ix}", 11, LG_WAIT), a);
    assert_int_equal(lg_record_string(&rig->rec, "", 0, LG_WAIT), 0);
}

static void
long_string_is_cut_at_a_character_and_counted(void **state)
{
    struct rig_recorder *rig = *state;
    char text[700];
    memset(text, 'x', sizeof(text));
    text[510] = '\xc3';                /* an accented 'e' across the edge */
    text[511] = '\xa9';
    uint32_t id = lg_record_string(&rig->rec, text, sizeof(text), LG_WAIT);
    assert_int_not_equal(id, 0);
    assert_int_equal(strlen(string(rig, id)), 510);
    assert_int_equal(rig->rec.seg.self->string_truncated, 1);
}

static void
full_table_of_strings_is_counted_and_gives_the_empty_one(void **state)
{
    struct rig_recorder *rig = *state;
    char text[300];
    uint32_t id = 1;
    memset(text, 'x', sizeof(text));
    for (int i = 0; i < 1000 && id != 0; i++) {
        memcpy(text, &i, sizeof(i));
        id = lg_record_string(&rig->rec, text, sizeof(text), LG_WAIT);
    }
    assert_int_equal(id, 0);
    assert_true(rig->rec.seg.self->string_overflow > 0);
    assert_true(rig->rec.overflow_told & UINT64_C(1) << LG_SEC_STRINGS);
}

static void
endpoint_is_known_by_kind_method_and_name(void **state)
{
    struct rig_recorder *rig = *state;
    uint32_t a = endpoint(rig, "/a");
    assert_int_equal(endpoint(rig, "/a"), a);
    assert_int_not_equal(endpoint(rig, "/b"), a);
    assert_int_not_equal(
        lg_record_endpoint(&rig->rec, LG_KIND_REQUEST, LG_METHOD_POST, "/a", 2, 1, LG_WAIT), a);
    assert_int_not_equal(
        lg_record_endpoint(&rig->rec, LG_KIND_WEBSOCKET, LG_METHOD_GET, "/a", 2, 1, LG_WAIT), a);
    int twin = lg_record_twin(&rig->rec, a, LG_KIND_BACKGROUND, 1, LG_WAIT);
    assert_int_equal(rig->rec.seg.endpoints[twin].key,
                     LG_ENDPOINT_KEY(LG_KEY_NAME(rig->rec.seg.endpoints[a].key), LG_KIND_BACKGROUND,
                                     LG_METHOD_GET));
    assert_int_equal(lg_record_twin(&rig->rec, a, LG_KIND_BACKGROUND, 1, LG_WAIT), twin);
}

static void
full_table_of_endpoints_gives_other(void **state)
{
    struct rig_recorder *rig = *state;
    char name[16];
    for (int i = 0; i < 40; i++) {
        snprintf(name, sizeof(name), "/%d", i);
        assert_int_equal(endpoint(rig, name), i < ENDPOINTS - 2 ? (uint32_t)i + 2 : 0);
    }
    assert_int_equal(rig->rec.seg.tables->endpoints_used, ENDPOINTS);
    assert_int_equal(endpoint(rig, "/3"), 5);           /* the known ones stay known */
    assert_true(rig->rec.seg.self->endpoint_overflow > 0);
}

static void *
hold_names(void *arg)
{
    struct rig_recorder *rig = arg;
    pthread_mutex_lock(&rig->rec.names);
    return NULL;
}

static void
who_only_tries_never_waits_for_the_names(void **state)
{
    struct rig_recorder *rig = *state;
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, hold_names, rig), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(lg_record_string(&rig->rec, "/x", 2, LG_TRY), 0);
    assert_int_equal(
        lg_record_endpoint(&rig->rec, LG_KIND_REQUEST, LG_METHOD_GET, "/x", 2, 1, LG_TRY), -1);
    assert_int_equal(rig->rec.seg.self->intern_busy, 2);
    pthread_mutex_unlock(&rig->rec.names);
}

static void
steps_and_requests_are_summed(void **state)
{
    struct rig_recorder *rig = *state;
    uint32_t i = endpoint(rig, "/a");
    const struct lg_endpoint *e = &rig->rec.seg.endpoints[i];
    lg_record_step(&rig->rec, i, 100 * MS, 103 * MS, 2 * MS);
    lg_record_step(&rig->rec, i, 110 * MS, 111 * MS, MS);
    assert_int_equal(e->steps, 2);
    assert_int_equal(e->on_loop_sum_ns, 4 * MS);
    assert_int_equal(e->step_max_ns, 3 * MS);
    assert_int_equal(e->cpu_ns, 3 * MS);
    const uint16_t status[] = {200, 204, 302, 404, 503, 0, 999};
    for (size_t n = 0; n < sizeof(status) / sizeof(status[0]); n++) {
        struct lg_request_facts facts = {
            .start_ns = 100 * MS, .end_ns = 108 * MS, .status = status[n], .timed = true};
        lg_record_in_flight(&rig->rec, i, +1);
        lg_record_in_flight(&rig->rec, i, -1);
        lg_record_request(&rig->rec, i, &facts);
    }
    assert_int_equal(e->requests, 7);
    assert_int_equal(e->status_2xx, 2);
    assert_int_equal(e->status_3xx, 1);
    assert_int_equal(e->status_4xx, 1);
    assert_int_equal(e->status_5xx, 1);
    assert_int_equal(e->response_sum_ns, 56 * MS);
    assert_int_equal(LG_LO(e->in_flight_threshold_us), 0);
    assert_int_equal(rig->rec.seg.self->requests, 7);
}

static void
step_across_a_second_is_busy_in_both_and_counted_in_the_last(void **state)
{
    struct rig_recorder *rig = *state;
    uint32_t i = endpoint(rig, "/a");
    lg_record_step(&rig->rec, i, 4900 * MS, 6200 * MS, 0);
    const struct lg_cell *cells = &rig->rec.seg.endpoint_history[(size_t)i * LG_CELLS];
    const uint32_t busy_us[] = {100000, 1000000, 200000};
    for (uint32_t s = 4; s <= 6; s++) {
        assert_int_equal(LG_LO(cells[s].second_requests), s);
        assert_int_equal(LG_HI(cells[s].steps_busy_us), busy_us[s - 4]);
        assert_int_equal(LG_LO(cells[s].steps_busy_us), s == 6);
    }
    assert_int_equal(LG_LO(cells[6].max_step_us_waited), 1300000);
    assert_int_equal(LG_HI(cells[LG_CELLS_1S].steps_busy_us), 1300000);     /* ten seconds */
}

static void
stale_cell_is_begun_anew(void **state)
{
    struct rig_recorder *rig = *state;
    uint32_t i = endpoint(rig, "/a");
    const struct lg_cell *cell = &rig->rec.seg.endpoint_history[(size_t)i * LG_CELLS + 5];
    lg_record_step(&rig->rec, i, 5100 * MS, 5200 * MS, 0);
    lg_record_step(&rig->rec, i, 5100 * MS + 64000 * MS, 5130 * MS + 64000 * MS, 0);
    assert_int_equal(LG_LO(cell->second_requests), 69);
    assert_int_equal(LG_HI(cell->steps_busy_us), 30000);
    assert_int_equal(LG_LO(cell->steps_busy_us), 1);
}

static void
very_long_step_fills_the_cells_that_there_are(void **state)
{
    struct rig_recorder *rig = *state;
    uint32_t i = endpoint(rig, "/a");
    lg_record_step(&rig->rec, i, 0, 3600 * LG_NS_PER_S, 0);
    const struct lg_cell *cells = &rig->rec.seg.endpoint_history[(size_t)i * LG_CELLS];
    assert_int_equal(LG_LO(cells[3599 % LG_CELLS_1S].second_requests), 3599);
    assert_int_equal(LG_HI(cells[3599 % LG_CELLS_1S].steps_busy_us), 1000000);
    assert_int_equal(rig->rec.seg.endpoints[i].step_max_ns, 3600 * LG_NS_PER_S);
}

static void
block_counts_whole_with_its_parts(void **state)
{
    struct rig_recorder *rig = *state;
    uint32_t i = endpoint(rig, "/a");
    const struct lg_endpoint *e = &rig->rec.seg.endpoints[i];
    const uint64_t parts[LG_CAUSE_COUNT] = {[LG_CAUSE_IO] = 70 * MS, [LG_CAUSE_CPU] = 5 * MS};
    lg_record_block(&rig->rec, i, 5500 * MS, 75 * MS, parts);
    lg_record_waited(&rig->rec, i, 5500 * MS, 4, 200 * MS);
    assert_int_equal(e->blocks, 1);
    assert_int_equal(e->blocked_ns, 75 * MS);
    assert_int_equal(e->blocked_by_cause_ns[LG_CAUSE_IO], 70 * MS);
    assert_int_equal(LG_HI(e->cumulative_waited), 4);
    assert_int_equal(e->waited_ns, 200 * MS);
    const struct lg_cell *cell = &rig->rec.seg.endpoint_history[(size_t)i * LG_CELLS + 5];
    assert_int_equal(cell->blocked_us_blocks, LG_PAIR(75000, 1));
    assert_int_equal(LG_HI(cell->max_step_us_waited), 4);
}

static void
equal_stacks_of_one_endpoint_are_one(void **state)
{
    struct rig_recorder *rig = *state;
    struct lg_plain_frame frames[] = {
        {"/srv/app/reports.py", "render_pdf", 88},
        {"/srv/app/main.py", "report", 12},
    };
    uint32_t a = lg_record_stack(&rig->rec, frames, 2, 5, 0, 1);
    assert_int_not_equal(a, 0);
    assert_int_equal(lg_record_stack(&rig->rec, frames, 2, 5, 0, 2), a);
    assert_int_not_equal(lg_record_stack(&rig->rec, frames, 2, 6, 0, 2), a);
    frames[0].line = 89;
    assert_int_not_equal(lg_record_stack(&rig->rec, frames, 2, 5, 0, 2), a);
    lg_record_stack_blame(&rig->rec, a, 70 * MS, 3);
    lg_record_stack_blame(&rig->rec, a, 20 * MS, 4);
    const struct lg_stack *s = &rig->rec.seg.stacks[a];
    assert_int_equal(s->count, 2);
    assert_int_equal(s->total_ns, 90 * MS);
    assert_int_equal(s->max_ns, 70 * MS);
    const struct lg_frame *f = &rig->rec.seg.frames[LG_LO(s->frame_depth)];
    assert_string_equal(string(rig, f->function), "render_pdf");
    assert_string_equal(string(rig, rig->rec.seg.frames[f->next].function), "report");
    assert_int_equal(rig->rec.seg.frames[f->next].next, 0);
}

static void
full_table_of_stacks_gives_other_and_is_counted(void **state)
{
    struct rig_recorder *rig = *state;
    uint32_t id = 1;
    for (uint32_t i = 0; i < 2000 && id != 0; i++) {
        struct lg_plain_frame frame = {"/f.py", "f", i + 1};
        id = lg_record_stack(&rig->rec, &frame, 1, 0, 0, 1);
    }
    assert_int_equal(id, 0);
    assert_true(rig->rec.seg.self->stack_overflow > 0);
}

static void
left_segment_takes_late_words_without_harm(void **state)
{
    struct rig_recorder other;
    (void)state;
    rig_recorder_open(&other, ENDPOINTS);
    struct lg_loop_entry *late = &other.rec.seg.loops[0];
    lg_record_leave(&other.rec, true);
    lg_store_relaxed(&late->poll_since_ns, 99);
    assert_int_equal(lg_load_relaxed(&late->poll_since_ns), 99);
    char path[RIG_PATH];
    assert_int_equal(rig_dir_find(&other.dir, path), 1);
    FILE *file = fopen(path, "rb");                     /* the file has none of it */
    assert_non_null(file);
    uint64_t word;
    while (fread(&word, sizeof(word), 1, file) == 1) {
        assert_int_not_equal(word, 99);
    }
    fclose(file);
    rig_dir_remove(&other.dir);
}

int
main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, begin, finish)
    const struct CMUnitTest tests[] = {
        T(other_and_loop_exist_from_the_start),
        T(string_is_stored_once),
        T(long_string_is_cut_at_a_character_and_counted),
        T(full_table_of_strings_is_counted_and_gives_the_empty_one),
        T(endpoint_is_known_by_kind_method_and_name),
        T(full_table_of_endpoints_gives_other),
        T(who_only_tries_never_waits_for_the_names),
        T(steps_and_requests_are_summed),
        T(step_across_a_second_is_busy_in_both_and_counted_in_the_last),
        T(stale_cell_is_begun_anew),
        T(very_long_step_fills_the_cells_that_there_are),
        T(block_counts_whole_with_its_parts),
        T(equal_stacks_of_one_endpoint_are_one),
        T(full_table_of_stacks_gives_other_and_is_counted),
        T(left_segment_takes_late_words_without_harm),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
