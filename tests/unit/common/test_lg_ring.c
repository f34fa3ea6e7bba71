/* test_lg_ring.c - the slot protocol, seen by live and post-mortem readers. */
#include "rig.h"

#include <pthread.h>

#include "lg_ring.h"

#define SLOTS 8

struct rig {
    struct lg_ring ring;
    struct lg_slot slots[SLOTS];
    struct lg_ring_writer writer;
    struct lg_cursor cur;
    struct lg_record rec;
};

static int
make_rig(void **state)
{
    struct rig *rig = calloc(1, sizeof(*rig));
    assert_non_null(rig);
    lg_ring_init(&rig->writer, &rig->ring, rig->slots, 0, SLOTS, LG_RING_RARE);
    *state = rig;
    return 0;
}

static int
drop_rig(void **state)
{
    free(*state);
    return 0;
}

static void
push(struct rig *rig, uint64_t times)
{
    for (uint64_t i = 0; i < times; i++) {
        uint64_t id = rig->writer.head;
        lg_ring_push(&rig->writer, id, LG_TAG(LG_REC_MARK, 0, 0, 0), id, id + 1, id + 2, id + 3,
                     id + 4);
    }
}

/* The writer dies while it writes its next record. */
static void
die_in_mid_record(struct rig *rig)
{
    uint64_t ticket = rig->writer.head;
    struct lg_slot *slot = &rig->slots[ticket % SLOTS];
    slot->seq = 2 * ticket + 1;
    slot->p[0] = 12345;
}

static bool
read_one(struct rig *rig, enum lg_ring_mode mode)
{
    return lg_ring_read(&rig->ring, rig->slots, SLOTS, mode, &rig->cur, &rig->rec);
}

static uint64_t
accounted(const struct rig *rig)
{
    return rig->cur.seen + rig->cur.lapped + rig->cur.torn;
}

static void
records_come_once_and_in_order(void **state)
{
    struct rig *rig = *state;
    push(rig, 3);
    for (uint64_t id = 0; id < 3; id++) {
        assert_true(read_one(rig, LG_RING_LIVE));
        assert_int_equal(rig->rec.ticket, id);
        assert_int_equal(rig->rec.p[0], id);
        assert_int_equal(rig->rec.p[4], id + 4);
    }
    assert_false(read_one(rig, LG_RING_LIVE));
    assert_int_equal(rig->cur.seen, 3);
}

static void
reader_a_whole_ring_behind_loses_nothing(void **state)
{
    struct rig *rig = *state;
    push(rig, SLOTS);
    assert_true(read_one(rig, LG_RING_LIVE));
    assert_int_equal(rig->rec.ticket, 0);
    assert_int_equal(rig->cur.lapped, 0);
}

static void
slow_reader_is_told_how_many_records_it_lost(void **state)
{
    struct rig *rig = *state;
    push(rig, 11);
    assert_true(read_one(rig, LG_RING_LIVE));
    assert_int_equal(rig->rec.ticket, 7);       /* resync: half a ring back */
    assert_int_equal(rig->cur.lapped, 7);
}

static void
seen_lapped_and_torn_add_up_to_all_tickets(void **state)
{
    struct rig *rig = *state;
    for (uint64_t burst = 0; burst < 40; burst++) {
        push(rig, burst % 13);
        for (uint64_t i = 0; i < burst % 5 && read_one(rig, LG_RING_LIVE); i++) {
            assert_int_equal(rig->rec.p[1], rig->rec.ticket + 1);
        }
        assert_int_equal(accounted(rig), rig->cur.next);
    }
    while (read_one(rig, LG_RING_DEAD)) {}
    assert_int_equal(accounted(rig), rig->writer.head);
    assert_true(rig->cur.lapped > 0);
}

static void
record_being_overwritten_counts_as_lapped(void **state)
{
    struct rig *rig = *state;
    push(rig, SLOTS);
    die_in_mid_record(rig);                     /* slot 0: ticket 8 over ticket 0 */
    assert_true(read_one(rig, LG_RING_LIVE));
    assert_int_equal(rig->rec.ticket, SLOTS / 2);
    assert_int_equal(rig->cur.lapped, SLOTS / 2);
    assert_int_equal(rig->cur.torn, 0);
}

static void
reader_lapped_before_the_ring_was_half_full_counts_right(void **state)
{
    struct rig *rig = *state;
    push(rig, SLOTS + 3);
    rig->ring.head = 3;                         /* as loaded before it slept */
    assert_false(read_one(rig, LG_RING_LIVE));
    assert_int_equal(rig->cur.lapped, 3);
    assert_false(rig->cur.damaged);
}

static void
live_reader_waits_for_a_record_under_way(void **state)
{
    struct rig *rig = *state;
    die_in_mid_record(rig);
    assert_false(read_one(rig, LG_RING_LIVE));
    assert_int_equal(accounted(rig), 0);
    assert_false(rig->cur.damaged);
}

static void
record_that_death_interrupted_is_counted_torn(void **state)
{
    struct rig *rig = *state;
    push(rig, 2);
    die_in_mid_record(rig);
    assert_true(read_one(rig, LG_RING_DEAD));
    assert_true(read_one(rig, LG_RING_DEAD));
    assert_false(read_one(rig, LG_RING_DEAD));
    assert_false(read_one(rig, LG_RING_DEAD));  /* and counted once */
    assert_int_equal(rig->cur.seen, 2);
    assert_int_equal(rig->cur.torn, 1);
    assert_false(rig->cur.damaged);
}

static void
interrupted_record_costs_the_one_a_ring_before_it(void **state)
{
    struct rig *rig = *state;
    push(rig, SLOTS);
    die_in_mid_record(rig);
    while (read_one(rig, LG_RING_DEAD)) {}
    assert_int_equal(rig->cur.seen, SLOTS - 1);
    assert_int_equal(rig->cur.lapped, 1);
    assert_int_equal(rig->cur.torn, 1);
}

static void
record_committed_before_the_head_moved_is_found_after_death(void **state)
{
    struct rig *rig = *state;
    push(rig, 3);
    rig->ring.head = 2;
    assert_true(read_one(rig, LG_RING_DEAD));
    assert_true(read_one(rig, LG_RING_DEAD));
    assert_true(read_one(rig, LG_RING_DEAD));
    assert_int_equal(rig->rec.ticket, 2);
    assert_false(read_one(rig, LG_RING_DEAD));
    assert_false(rig->cur.damaged);
}

static void
nothing_is_lost_of_the_last_ring_of_the_dead(void **state)
{
    struct rig *rig = *state;
    push(rig, 20);
    while (read_one(rig, LG_RING_DEAD)) {}
    assert_int_equal(rig->cur.lapped, 20 - SLOTS);
    assert_int_equal(rig->cur.seen, SLOTS);
}

static void
reading_starts_at_the_first_ticket(void **state)
{
    struct rig *rig = *state;
    rig->writer.head = 100;
    rig->ring.first = 100;
    push(rig, 2);
    assert_true(read_one(rig, LG_RING_LIVE));
    assert_int_equal(rig->rec.ticket, 100);
    assert_int_equal(rig->cur.lapped, 0);
}

static void
head_ahead_of_its_slots_is_damage(void **state)
{
    struct rig *rig = *state;
    push(rig, 2);
    rig->ring.head = 5;
    assert_true(read_one(rig, LG_RING_LIVE));
    assert_true(read_one(rig, LG_RING_LIVE));
    assert_false(read_one(rig, LG_RING_LIVE));
    assert_true(rig->cur.damaged);
    assert_int_equal(accounted(rig), rig->cur.next);
}

static void
head_that_went_back_is_damage(void **state)
{
    struct rig *rig = *state;
    push(rig, 4);
    while (read_one(rig, LG_RING_LIVE)) {}
    rig->ring.head = 1;
    assert_false(read_one(rig, LG_RING_LIVE));
    assert_true(rig->cur.damaged);
}

static void
ring_of_random_words_ends_and_adds_up(void **state)
{
    struct rig *rig = *state;
    uint64_t random = 42;
    for (int round = 0; round < 20000; round++) {
        rig->ring.head = rig_random(&random) >> rig_random(&random) % 64;
        for (int i = 0; i < SLOTS; i++) {
            uint64_t ticket = rig->ring.head - rig_random(&random) % 20;
            rig->slots[i].seq = 2 * ticket + rig_random(&random) % 4;
        }
        rig->cur = (struct lg_cursor){0};
        int reads = 0;
        while (read_one(rig, round % 2 == 0 ? LG_RING_LIVE : LG_RING_DEAD)) {
            assert_true(++reads <= SLOTS + 1);
        }
        assert_int_equal(accounted(rig), rig->cur.next);
        assert_true(rig->cur.next <= rig->ring.head + 1);
    }
}

static void
ring_fits_only_inside_its_slots(void **state)
{
    static const struct {
        uint64_t first_slot, capacity, slot_count;
        bool fits;
    } cases[] = {
        {0, 8, 8, true},  {8, 8, 16, true},          {9, 8, 16, false},
        {0, 0, 8, false}, {0, 6, 8, false},          {0, 16, 8, false},
        {0, 1, 1, true},  {UINT64_MAX, 8, 8, false}, {0, UINT64_C(1) << 63, 8, false},
        {0, 8, 0, false},
    };
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct lg_ring ring = {.first_slot = cases[i].first_slot, .capacity = cases[i].capacity};
        assert_int_equal(lg_ring_fits(&ring, cases[i].slot_count), cases[i].fits);
    }
}

#define PUSHES 300000

static void *
keep_pushing(void *arg)
{
    push(arg, PUSHES);
    return NULL;
}

static void
reader_beside_a_writer_gets_whole_records_only(void **state)
{
    struct rig *rig = *state;
    pthread_t writer;
    assert_int_equal(pthread_create(&writer, NULL, keep_pushing, rig), 0);
    while (rig->cur.next < PUSHES && !rig->cur.damaged) {
        if (!read_one(rig, LG_RING_LIVE)) {
            continue;
        }
        assert_int_equal(rig->rec.time_ns, rig->rec.ticket);
        for (uint64_t i = 0; i < LG_PAYLOAD_WORDS; i++) {
            assert_int_equal(rig->rec.p[i], rig->rec.ticket + i);
        }
    }
    assert_int_equal(pthread_join(writer, NULL), 0);
    assert_false(rig->cur.damaged);
    assert_int_equal(accounted(rig), PUSHES);
}

#define RIGGED(test) cmocka_unit_test_setup_teardown(test, make_rig, drop_rig)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        RIGGED(records_come_once_and_in_order),
        RIGGED(reader_a_whole_ring_behind_loses_nothing),
        RIGGED(slow_reader_is_told_how_many_records_it_lost),
        RIGGED(seen_lapped_and_torn_add_up_to_all_tickets),
        RIGGED(record_being_overwritten_counts_as_lapped),
        RIGGED(reader_lapped_before_the_ring_was_half_full_counts_right),
        RIGGED(live_reader_waits_for_a_record_under_way),
        RIGGED(record_that_death_interrupted_is_counted_torn),
        RIGGED(interrupted_record_costs_the_one_a_ring_before_it),
        RIGGED(record_committed_before_the_head_moved_is_found_after_death),
        RIGGED(nothing_is_lost_of_the_last_ring_of_the_dead),
        RIGGED(reading_starts_at_the_first_ticket),
        RIGGED(head_ahead_of_its_slots_is_damage),
        RIGGED(head_that_went_back_is_damage),
        RIGGED(ring_of_random_words_ends_and_adds_up),
        cmocka_unit_test(ring_fits_only_inside_its_slots),
        RIGGED(reader_beside_a_writer_gets_whole_records_only),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
