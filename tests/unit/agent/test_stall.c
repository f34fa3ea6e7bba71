/* test_stall.c - the table of stalls: opened, found, renamed, published whole. */
#include "rig_agent.h"

#include "lg_seqlock.h"
#include "watchdog/stall.h"

struct rig {
    struct rig_recorder recorder;
    struct lg_stalls *stalls;
};

static int
begin(void **state)
{
    struct rig *rig = calloc(1, sizeof(*rig));
    rig_recorder_open(&rig->recorder, 16);
    rig->stalls = lg_stalls_new(&rig->recorder.rec);
    *state = rig;
    return rig->stalls == NULL ? -1 : 0;
}

static int
finish(void **state)
{
    struct rig *rig = *state;
    lg_stalls_free(rig->stalls);
    rig_recorder_close(&rig->recorder);
    free(rig);
    return 0;
}

static struct lg_stall_key
step(uint64_t number)
{
    return (struct lg_stall_key){.loop = 1, .kind = LG_STALL_STEP, .step = number};
}

static struct lg_stall_state *
open_stall(struct rig *rig, uint64_t number)
{
    struct lg_stall_key key = step(number);
    return lg_stall_new(rig->stalls, &key);
}

static struct lg_stall
published(const struct rig *rig, uint64_t ticket)
{
    union {
        uint64_t words[sizeof(struct lg_stall) / 8];
        struct lg_stall stall;
    } copy;
    const struct lg_segment *seg = &rig->recorder.rec.seg;
    assert_true(
        lg_seq_read(&seg->stalls[ticket % seg->stall_count].seq, copy.words, sizeof(copy) / 8, 1));
    return copy.stall;
}

static void
stall_is_found_by_its_key_alone(void **state)
{
    struct rig *rig = *state;
    struct lg_stall_state *one = open_stall(rig, 7);
    struct lg_stall_state *two = open_stall(rig, 8);
    struct lg_stall_key key = step(7);
    assert_ptr_equal(lg_stall_find(rig->stalls, &key), one);
    key.step = 8;
    assert_ptr_equal(lg_stall_find(rig->stalls, &key), two);
    key.gap = true;
    assert_null(lg_stall_find(rig->stalls, &key));
    key = step(8);
    key.loop = 2;
    assert_null(lg_stall_find(rig->stalls, &key));
    key = step(8);
    key.kind = LG_STALL_CUMULATIVE;
    assert_null(lg_stall_find(rig->stalls, &key));
}

static void
published_entry_has_all_that_was_set(void **state)
{
    struct rig *rig = *state;
    struct lg_stall_state *s = open_stall(rig, 7);
    s->start_ns = 1000;
    s->duration_ns = 600;
    s->threshold_ns = 50;
    s->endpoint = 3;
    s->holder_endpoint = 4;
    s->request_id = 0xabcdef01;
    s->task = LG_TASK_NUMBER_BIT | 5;
    s->cause = LG_CAUSE_GIL;
    s->flags = LG_STALL_WATCHED;
    s->waiting = 2;
    s->waited = (struct lg_waited_note){.requests = 9, .longest_ns = 8, .sum_ns = 70};
    s->waited.by[1].endpoint = 6;
    s->waited.by[1].requests = 5;
    s->waited.by[1].ns = 44;
    for (int i = 0; i < LG_CAUSE_COUNT; i++) {
        s->parts_ns[i] = (uint64_t)i * 10;
    }
    lg_stall_write(rig->stalls, s);
    struct lg_stall e = published(rig, s->ticket);
    assert_int_equal(e.ticket, s->ticket + 1);
    assert_int_equal(
        e.info, LG_STALL_INFO(LG_STALL_STEP, LG_CAUSE_GIL, LG_STALL_WATCHED | LG_STALL_ONGOING, 1));
    assert_int_equal(e.step, 7);
    assert_int_equal(e.start_ns, 1000);
    assert_int_equal(e.duration_ns, 600);
    assert_int_equal(e.endpoint_holder, LG_PAIR(3, 4));
    assert_int_equal(e.request_task, LG_PAIR(0xabcdef01, LG_TASK_NUMBER_BIT | 5));
    assert_int_equal(e.parts_ns[LG_CAUSE_OTHER], 80);
    assert_int_equal(e.waiting_open, LG_PAIR(2, 0));
    assert_int_equal(e.waited_requests, 9);
    assert_int_equal(e.waited[1].endpoint_count, LG_PAIR(6, 5));
    assert_int_equal(e.waited[1].ns, 44);
    s->ongoing = false;
    lg_stall_write(rig->stalls, s);
    assert_int_equal(LG_INFO_FLAGS(published(rig, s->ticket).info), LG_STALL_WATCHED);
}

static void
head_rises_only_when_an_entry_is_published(void **state)
{
    struct rig *rig = *state;
    const struct lg_tables *tables = rig->recorder.rec.seg.tables;
    struct lg_stall_state *one = open_stall(rig, 1);
    assert_int_equal(tables->stalls_head, 0);
    struct lg_stall_state *two = open_stall(rig, 2);
    lg_stall_write(rig->stalls, two);
    assert_int_equal(tables->stalls_head, two->ticket + 1);
    lg_stall_write(rig->stalls, one);
    assert_int_equal(tables->stalls_head, two->ticket + 1);
    assert_int_equal(rig->recorder.rec.seg.self->stalls, 2);
}

static void
table_goes_round(void **state)
{
    struct rig *rig = *state;
    uint32_t count = rig->recorder.rec.seg.stall_count;
    for (uint64_t i = 0; i < 3 * (uint64_t)count; i++) {
        lg_stall_write(rig->stalls, open_stall(rig, i));
    }
    struct lg_stall e = published(rig, 3 * (uint64_t)count - 1);
    assert_int_equal(e.ticket, 3 * (uint64_t)count);
    struct lg_stall_key old = step(0);
    assert_null(lg_stall_find(rig->stalls, &old));
}

static void
count_ongoing(void *context, struct lg_stall_state *state)
{
    assert_true(state->ongoing);
    ++*(int *)context;
}

static void
only_ongoing_stalls_of_the_loop_are_visited(void **state)
{
    struct rig *rig = *state;
    int n = 0;
    lg_stalls_ongoing(rig->stalls, 1, count_ongoing, &n);
    assert_int_equal(n, 0);
    (void)open_stall(rig, 1);
    open_stall(rig, 2)->ongoing = false;
    open_stall(rig, 3)->key.loop = 0;
    lg_stalls_ongoing(rig->stalls, 1, count_ongoing, &n);
    assert_int_equal(n, 1);
}

static void
only_nameless_stalls_of_the_request_are_renamed(void **state)
{
    struct rig *rig = *state;
    struct lg_stall_state *s[4];
    for (uint64_t i = 0; i < 4; i++) {
        s[i] = open_stall(rig, i);
        s[i]->request_id = i == 1 ? 8 : 9;
        s[i]->endpoint = i == 2 ? LG_ENDPOINT_LOOP : LG_ENDPOINT_OTHER;
        lg_stall_write(rig->stalls, s[i]);
    }
    lg_stalls_rename(rig->stalls, 1, 9, 5);
    assert_int_equal(s[0]->endpoint, 5);
    assert_int_equal(s[1]->endpoint, LG_ENDPOINT_OTHER);    /* another request's */
    assert_int_equal(s[2]->endpoint, LG_ENDPOINT_LOOP);     /* it is not to blame */
    assert_int_equal(s[3]->endpoint, 5);
    assert_int_equal(LG_LO(published(rig, s[3]->ticket).endpoint_holder), 5);
}

int
main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, begin, finish)
    const struct CMUnitTest tests[] = {
        T(stall_is_found_by_its_key_alone),
        T(published_entry_has_all_that_was_set),
        T(head_rises_only_when_an_entry_is_published),
        T(table_goes_round),
        T(only_ongoing_stalls_of_the_loop_are_visited),
        T(only_nameless_stalls_of_the_request_are_renamed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
