/* test_lg_ring_kill.c - what kill -9 leaves in a ring, and a reader beside a
 * writer of another process. */
#include "rig.h"

#include <sys/mman.h>
#include <sys/prctl.h>

#include "lg_ring.h"

#define SLOTS 64
#define ROUNDS 400
#define LIMIT_NS (4 * LG_NS_PER_S)

struct shared {
    struct lg_ring ring;
    struct lg_slot slots[SLOTS];
};

static int
map_shared(void **state)
{
    *state = mmap(NULL, sizeof(struct shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
                  -1, 0);
    assert_true(*state != MAP_FAILED);
    return 0;
}

static int
unmap_shared(void **state)
{
    return munmap(*state, sizeof(struct shared));
}

/* A child that writes until it is killed. */
static pid_t
start_writer(struct shared *shared)
{
    struct lg_ring_writer writer;
    lg_ring_init(&writer, &shared->ring, shared->slots, 0, SLOTS, LG_RING_BULK);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);       /* should an assertion end us */
    }
    while (child == 0) {
        uint64_t t = writer.head;
        lg_ring_push(&writer, 3 * t, ~t, t, 5 * t, t ^ 77, t << 8, t + 1);
    }
    return child;
}

static void
assert_whole(const struct lg_record *rec)
{
    uint64_t t = rec->ticket;
    assert_int_equal(rec->time_ns, 3 * t);
    assert_int_equal(rec->tag, ~t);
    assert_int_equal(rec->p[0], t);
    assert_int_equal(rec->p[1], 5 * t);
    assert_int_equal(rec->p[2], t ^ 77);
    assert_int_equal(rec->p[3], t << 8);
    assert_int_equal(rec->p[4], t + 1);
}

static void
wait_for_head(const struct shared *shared, uint64_t target)
{
    uint64_t deadline_ns = lg_now_ns() + 20 * LG_NS_PER_S;
    while (lg_load_acquire(&shared->ring.head) < target) {
        assert_true(lg_now_ns() < deadline_ns);
    }
}

static void
bury(pid_t child)
{
    assert_int_equal(kill(child, SIGKILL), 0);
    assert_true(WIFSIGNALED(rig_wait(child)));
}

static void
killed_writers_leave_whole_records_and_one_torn_at_most(void **state)
{
    struct shared *shared = *state;
    struct lg_record rec;
    uint64_t random = 7;
    uint64_t torn = 0;
    uint64_t seen = 0;
    int rounds = 0;
    for (uint64_t end_ns = lg_now_ns() + LIMIT_NS; rounds < ROUNDS && lg_now_ns() < end_ns;
         rounds++) {
        struct lg_cursor cur = {0};
        pid_t child = start_writer(shared);
        wait_for_head(shared, 1 + rig_random(&random) % 5000);
        bury(child);
        while (lg_ring_read(&shared->ring, shared->slots, SLOTS, LG_RING_DEAD, &cur, &rec)) {
            assert_whole(&rec);
        }
        assert_false(cur.damaged);
        assert_true(cur.torn <= 1);
        assert_int_equal(cur.seen + cur.lapped + cur.torn, cur.next);
        assert_true(cur.next - lg_load_acquire(&shared->ring.head) <= 1);
        torn += cur.torn;
        seen += cur.seen;
    }
    print_message("%d kills, %llu records read, %llu torn at death\n", rounds,
                  (unsigned long long)seen, (unsigned long long)torn);
    assert_true(rounds >= 20);
    /* Most of a push lies between its two sequences: a hundred kills hit it. */
    assert_true(torn > 0 || rounds < 100);
}

static void
reader_in_another_process_gets_whole_records_only(void **state)
{
    struct shared *shared = *state;
    struct lg_cursor cur = {0};
    struct lg_record rec;
    pid_t child = start_writer(shared);
    for (uint64_t end_ns = lg_now_ns() + LG_NS_PER_S / 2; lg_now_ns() < end_ns || cur.seen < 100;) {
        if (lg_ring_read(&shared->ring, shared->slots, SLOTS, LG_RING_LIVE, &cur, &rec)) {
            assert_whole(&rec);
        }
        assert_false(cur.damaged);
    }
    bury(child);
    while (lg_ring_read(&shared->ring, shared->slots, SLOTS, LG_RING_DEAD, &cur, &rec)) {
        assert_whole(&rec);
    }
    print_message("%llu seen, %llu lapped\n", (unsigned long long)cur.seen,
                  (unsigned long long)cur.lapped);
    assert_int_equal(cur.seen + cur.lapped + cur.torn, cur.next);
    assert_true(cur.next >= lg_load_acquire(&shared->ring.head));
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(killed_writers_leave_whole_records_and_one_torn_at_most,
                                        map_shared, unmap_shared),
        cmocka_unit_test_setup_teardown(reader_in_another_process_gets_whole_records_only,
                                        map_shared, unmap_shared),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
