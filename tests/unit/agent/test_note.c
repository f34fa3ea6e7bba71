/* test_note.c - the queue from a loop thread to the watchdog. */
#include "../common/rig.h"

#include <pthread.h>

#include "lg_atomic.h"
#include "watchdog/note.h"

static int
begin(void **state)
{
    struct lg_notes *notes = calloc(1, sizeof(*notes));
    notes->slot = calloc(LG_NOTES, sizeof(*notes->slot));
    *state = notes;
    return notes->slot == NULL ? -1 : 0;
}

static int
finish(void **state)
{
    struct lg_notes *notes = *state;
    free(notes->slot);
    free(notes);
    return 0;
}

static bool
put(struct lg_notes *notes, uint64_t step)
{
    struct lg_note *note = lg_note_begin(notes);
    if (note == NULL) {
        return false;
    }
    note->step = step;
    lg_note_publish(notes);
    return true;
}

static void
empty_queue_has_no_note(void **state)
{
    assert_null(lg_note_peek(*state));
}

static void
notes_come_out_in_the_order_they_went_in(void **state)
{
    struct lg_notes *notes = *state;
    for (uint64_t i = 0; i < 100; i++) {
        assert_true(put(notes, i));
        if (i % 3 == 0) {
            continue;
        }
        while (lg_note_peek(notes) != NULL) {
            assert_true(lg_note_peek(notes)->step <= i);
            lg_note_drop(notes);
        }
    }
    assert_int_equal(notes->dropped, 0);
}

static void
note_begun_is_not_seen_before_it_is_published(void **state)
{
    struct lg_notes *notes = *state;
    assert_non_null(lg_note_begin(notes));
    assert_null(lg_note_peek(notes));
    lg_note_publish(notes);
    assert_non_null(lg_note_peek(notes));
}

static void
full_queue_drops_the_newest_and_counts_it(void **state)
{
    struct lg_notes *notes = *state;
    for (uint64_t i = 0; i < LG_NOTES; i++) {
        assert_true(put(notes, i));
    }
    assert_false(put(notes, 99));
    assert_false(put(notes, 99));
    assert_int_equal(notes->dropped, 2);
    assert_int_equal(lg_note_peek(notes)->step, 0);
    lg_note_drop(notes);
    assert_true(put(notes, LG_NOTES));
    for (uint64_t i = 1; i <= LG_NOTES; i++) {
        assert_int_equal(lg_note_peek(notes)->step, i);
        lg_note_drop(notes);
    }
    assert_null(lg_note_peek(notes));
}

static void
queue_without_memory_drops_all(void **state)
{
    struct lg_notes none = {0};
    (void)state;
    assert_null(lg_note_begin(&none));
    assert_int_equal(none.dropped, 1);
    assert_null(lg_note_peek(&none));
}

static void
slot_used_again_holds_nothing_of_before(void **state)
{
    struct lg_notes *notes = *state;
    for (int i = 0; i < LG_NOTES; i++) {
        struct lg_note *note = lg_note_begin(notes);
        memset(note->parts_ns, 0xff, sizeof(note->parts_ns));
        memset(&note->waited, 0xff, sizeof(note->waited));
        memset(note->call, 'x', sizeof(note->call));
        note->stack.depth = 9;
        note->finished = true;
        lg_note_publish(notes);
        lg_note_drop(notes);
    }
    struct lg_note *note = lg_note_begin(notes);
    const struct lg_waited_note none = {0};
    assert_int_equal(note->parts_ns[LG_CAUSE_OTHER], 0);
    assert_memory_equal(&note->waited, &none, sizeof(none));
    assert_string_equal(note->call, "");
    assert_int_equal(note->stack.depth, 0);
    assert_false(note->finished);
}

#define MANY 200000

static void *
produce(void *arg)
{
    struct lg_notes *notes = arg;
    for (uint64_t i = 1; i <= MANY; i++) {
        struct lg_note *note = lg_note_begin(notes);
        if (note != NULL) {
            note->step = i;
            note->start_ns = i * 3;
            note->waited.sum_ns = i * 5;
            lg_note_publish(notes);
        }
    }
    return NULL;
}

static void
no_note_is_torn_or_lost_uncounted_between_two_threads(void **state)
{
    struct lg_notes *notes = *state;
    pthread_t thread;
    uint64_t taken = 0;
    uint64_t last = 0;
    assert_int_equal(pthread_create(&thread, NULL, produce, notes), 0);
    while (taken + lg_load_relaxed(&notes->dropped) < MANY) {
        const struct lg_note *note = lg_note_peek(notes);
        if (note == NULL) {
            continue;
        }
        assert_true(note->step > last);
        assert_int_equal(note->start_ns, note->step * 3);
        assert_int_equal(note->waited.sum_ns, note->step * 5);
        last = note->step;
        taken++;
        lg_note_drop(notes);
    }
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(taken + notes->dropped, MANY);
    assert_true(taken > 0);
}

int
main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, begin, finish)
    const struct CMUnitTest tests[] = {
        T(empty_queue_has_no_note),
        T(notes_come_out_in_the_order_they_went_in),
        T(note_begun_is_not_seen_before_it_is_published),
        T(full_queue_drops_the_newest_and_counts_it),
        T(queue_without_memory_drops_all),
        T(slot_used_again_holds_nothing_of_before),
        T(no_note_is_torn_or_lost_uncounted_between_two_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
